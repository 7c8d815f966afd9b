//! The parked driver: plain TCP on both sides. A stream is two descriptors and its state in a table; one thread waits
//! for all of its streams at once, in the kernel, and for those who connect and may become streams.
//!
//! Each thread owns its table, its queue of deadlines and its buffers, and shares nothing. A deadline is looked at when
//! its time comes, not when an event puts it off: an event costs one read and one write.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::alarm::Alarm;
use super::doors::{Client, Door, Doors};
use super::drive::Running;
use super::place::{Fate, Place, Site};
use super::registry::Registry;
use super::scratch::Scratch;
use super::timetable::Timetable;
use super::{clock, scratch};
use crate::stream::Millis;

/// The tokens of the waker and the alarm; doors have those below, and places twice their slot and one more.
const WAKE: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// Readiness events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 1024;

/// What comes into a table from other threads.
pub(super) enum Arrival {
    /// A stream that begins.
    Stream(Box<Newcomer>),
    /// A connection that the accepting reactor has let in.
    Client(Client),
    /// A listener to accept from.
    Door(Door),
}

/// A stream on its way into a table.
pub(super) struct Newcomer {
    pub(super) running: Running,
    pub(super) client: TcpStream,
    pub(super) upstream: TcpStream,
}

/// One thread's streams.
pub(super) struct Reactor {
    poll: Poll,
    alarm: Alarm,
    doors: Doors,
    places: Slab<Place>,
    /// When to look at which place. An entry whose time is no longer its place's `timer_at` is stale and skipped.
    deadlines: Timetable,
    /// Places that had more to do when their turn was over.
    again: Vec<usize>,
    arrivals: Receiver<Arrival>,
    /// Set by whoever sends an arrival, cleared before they are taken in.
    called: Arc<AtomicBool>,
    registry: Arc<Registry>,
    /// The limit of the drain that the streams have been told of.
    drained_to: Option<Duration>,
}

impl Reactor {
    pub(super) fn new(
        arrivals: Receiver<Arrival>,
        called: Arc<AtomicBool>,
        registry: Arc<Registry>,
    ) -> io::Result<(Self, mio::Waker)> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let reactor = Self {
            poll,
            alarm,
            doors: Doors::default(),
            places: Slab::new(),
            deadlines: Timetable::default(),
            again: Vec::new(),
            arrivals,
            called,
            registry,
            drained_to: None,
        };
        Ok((reactor, waker))
    }

    /// Runs for ever: the process's end is its own.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        loop {
            let patience = self.patience();
            match self.poll.poll(&mut events, patience) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("side=internal: waiting for streams failed: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            let now = clock::now();
            scratch::with(|scratch| self.round(&events, now, scratch));
        }
    }

    fn round(&mut self, events: &Events, now: Millis, scratch: &mut Scratch) {
        for slot in std::mem::take(&mut self.again) {
            if let Some(place) = self.places.get_mut(slot) {
                place.queued = false;
            }
            self.turn(slot, now, scratch);
        }
        for event in events {
            match event.token() {
                WAKE => {}
                ALARM => self.alarm.rang(),
                token if Doors::is_door(token) => self.doors.knock(token),
                token => {
                    let slot = Site::slot_of(token);
                    if let Some(place) = self.places.get_mut(slot) {
                        place.note(event);
                    }
                    self.turn(slot, now, scratch);
                }
            }
        }
        while let Some((at, slot)) = self.deadlines.take_due(now) {
            if let Some(place) = self.places.get_mut(slot).filter(|place| place.timer_at == at) {
                place.timer_at = Place::NEVER;
                self.turn(slot, now, scratch);
            }
        }
        // Before they are taken: who sends one after the last was taken wakes this thread again.
        self.called.store(false, Ordering::Release);
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.receive(arrival, now, scratch);
        }
        let (doors, places, kernel) = (&mut self.doors, &mut self.places, self.poll.registry());
        // The kernel reports each of them at once, and then it gets its first turn.
        doors.accept(now, |client| {
            let _ = admit(places, kernel, |site| Place::of_client(client, now, site));
        });
        let draining = self.registry.draining();
        if draining != self.drained_to {
            self.drained_to = draining;
            self.drain(now, scratch);
        }
    }

    /// How long to wait for events: not at all while somebody has more to do, otherwise until the alarm rings.
    fn patience(&mut self) -> Option<Duration> {
        let now = clock::now();
        let at_the_door = self.doors.due(now);
        if !self.again.is_empty() || at_the_door.is_some_and(|due| due <= now) {
            return Some(Duration::ZERO);
        }
        match self.alarm.set([self.deadlines.next(), at_the_door].into_iter().flatten().min(), now) {
            Ok(()) => None,
            Err(error) => {
                log::error!("side=internal: the alarm cannot be set: {error}");
                Some(Duration::from_millis(100))
            }
        }
    }

    fn receive(&mut self, arrival: Arrival, now: Millis, scratch: &mut Scratch) {
        match arrival {
            Arrival::Stream(newcomer) => {
                let Newcomer { running, client, upstream } = *newcomer;
                let placed = admit(&mut self.places, self.poll.registry(), |site| {
                    Place::of_stream(running, client, upstream, site)
                });
                if let Some(slot) = placed {
                    self.turn(slot, now, scratch);
                }
            }
            Arrival::Client(client) => {
                admit(&mut self.places, self.poll.registry(), |site| Place::of_client(client, now, site));
            }
            Arrival::Door(_) if self.drained_to.is_some() => {}
            Arrival::Door(door) => {
                if let Err(error) = self.doors.add(door, self.poll.registry()) {
                    log::error!("side=internal: a listener is lost, it cannot be waited for: {error}");
                }
            }
        }
    }

    /// Nobody new but those who have come already, and everybody here learns of it.
    fn drain(&mut self, now: Millis, scratch: &mut Scratch) {
        let (doors, places, kernel) = (&mut self.doors, &mut self.places, self.poll.registry());
        doors.close(|client| {
            let _ = admit(places, kernel, |site| Place::of_client(client, now, site));
        });
        for slot in 0..self.places.capacity() {
            if let Some(place) = self.places.get_mut(slot) {
                place.presume_readable();
            }
            self.turn(slot, now, scratch);
            if self.places.get(slot).is_some_and(Place::is_idle) {
                self.places.remove(slot);
            }
        }
    }

    fn turn(&mut self, slot: usize, now: Millis, scratch: &mut Scratch) {
        let Some(place) = self.places.get_mut(slot) else { return };
        scratch.output.clear();
        let site = Site { kernel: self.poll.registry(), slot };
        // One stream's defect must not end the thousands beside it.
        let turn = AssertUnwindSafe(|| place.turn(site, &self.registry, now, scratch));
        let fate = catch_unwind(turn).unwrap_or_else(|_| {
            log::error!("side=internal: a stream is dropped after a defect in its driver");
            Fate::Free
        });
        match fate {
            Fate::Free => {
                self.places.remove(slot);
                return self.shrink();
            }
            Fate::Left => {
                self.places.remove(slot).leave(site);
                return self.shrink();
            }
            // Once: its turns must not become more the longer it has more to do.
            Fate::Again if !place.queued => {
                place.queued = true;
                self.again.push(slot);
            }
            Fate::Again | Fate::Wait => {}
        }
        let due = place.due().map_or(Place::NEVER, |due| due.coarse(now));
        if due < place.timer_at {
            place.timer_at = due;
            self.deadlines.add(due, slot);
        }
    }

    /// Everybody has left: forgets deadlines that are nobody's any more, and gives the memory of a wave's places back.
    fn shrink(&mut self) {
        if self.places.is_empty() {
            self.deadlines = Timetable::default();
            if self.places.capacity() > EVENTS_PER_WAIT {
                self.places.shrink_to_fit();
            }
        }
    }
}

/// Gives somebody a place, if the kernel can watch it.
fn admit(
    places: &mut Slab<Place>,
    kernel: &mio::Registry,
    place: impl FnOnce(Site<'_>) -> io::Result<Place>,
) -> Option<usize> {
    let entry = places.vacant_entry();
    let slot = entry.key();
    match place(Site { kernel, slot }) {
        Ok(place) => {
            entry.insert(place);
            Some(slot)
        }
        Err(error) => {
            log::error!("side=internal: a connection is dropped, it cannot be waited for: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::pump::candidate::{Candidate, Reception, Step};
    use crate::pump::reactors::Handle;
    use crate::pump::socket::Socket;

    type Heard = Arc<Mutex<Vec<String>>>;

    /// Notes what its clients say first.
    struct Listener(Heard);

    impl Reception for Listener {
        fn meet(&self, _: SocketAddr, _: Millis) -> Box<dyn Candidate> {
            Box::new(Self(self.0.clone()))
        }
    }

    impl Candidate for Listener {
        fn turn(&mut self, client: &mut dyn Socket, _: Option<&mut dyn Socket>, _: Millis, input: &mut [u8]) -> Step {
            match client.read(input) {
                Ok(count) => {
                    self.0.lock().expect("heard").push(String::from_utf8_lossy(&input[..count]).into_owned());
                    Step::Gone
                }
                Err(_) => Step::Wait,
            }
        }

        fn deadline(&self) -> Option<Millis> {
            None
        }

        fn is_idle(&self) -> bool {
            true
        }

        fn leave(self: Box<Self>, _: TcpStream, _: Option<TcpStream>) {}
    }

    /// A request that has come is served, though the signal came with it. Listeners were closed and clients let go before
    /// anybody had looked whether they had asked: they were reset.
    #[test]
    fn a_drain_lets_in_and_hears_who_has_come_before_it() {
        let registry = Arc::<Registry>::default();
        let (arrivals, inbox) = channel();
        let called = Arc::<AtomicBool>::default();
        let (mut reactor, waker) = Reactor::new(inbox, called.clone(), registry.clone()).expect("a reactor");
        let reactors = [Handle { arrivals: arrivals.clone(), waker: Arc::new(waker), called }].into();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("an address");
        let call = |text: &str| {
            let mut client = TcpStream::connect(address).expect("the listener's queue");
            client.write_all(text.as_bytes()).expect("room");
            client
        };
        let heard = Heard::default();
        let listener = mio::net::TcpListener::from_std(listener);
        let door = Door { listener, reception: Arc::new(Listener(heard.clone())), reactors };
        arrivals.send(Arrival::Door(door)).expect("an inbox");
        let nothing = Events::with_capacity(1);
        let mut round = || scratch::with(|scratch| reactor.round(&nothing, clock::now(), scratch));

        let let_in = call("let in");
        round();
        assert!(heard.lock().expect("heard").is_empty(), "nothing has been reported of it");
        let at_the_door = call("at the door");
        registry.drain(Duration::from_secs(1));
        round();
        let mut heard = heard.lock().expect("heard").clone();
        heard.sort();
        assert_eq!(heard, ["at the door", "let in"]);
        assert!(TcpStream::connect(address).is_err(), "nobody after that");
        drop((let_in, at_the_door));
    }
}
