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

use mio::{Events, Poll, Token};
use slab::Slab;

use super::handle::{Command, NewStream};
use super::listeners::Listeners;
use super::slot::{Action, Slot, SlotRef};
use super::timer_fd::TimerFd;
use super::timer_queue::TimerQueue;
use crate::driver::registry::StreamRegistry;
use crate::driver::scratch::Scratch;
use crate::driver::{clock, scratch};
use crate::stream::Millis;

/// The tokens of the waker and the timer_fd; listeners have those below, and slots twice their index and one more.
const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Readiness events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 1024;

/// One thread's streams.
pub(in crate::driver) struct Reactor {
    poll: Poll,
    timer_fd: TimerFd,
    listeners: Listeners,
    slots: Slab<Slot>,
    /// When to look at which slot. An entry whose time is no longer its slot's `timer_at` is stale and skipped.
    deadlines: TimerQueue,
    /// Places that had more to do when their turn was over.
    runnable: Vec<usize>,
    commands: Receiver<Command>,
    /// Set by whoever sends an command, cleared before they are taken in.
    woken: Arc<AtomicBool>,
    registry: Arc<StreamRegistry>,
    /// The limit of the drain that the streams have been told of.
    drain_limit: Option<Duration>,
}

impl Reactor {
    pub(in crate::driver) fn new(
        commands: Receiver<Command>,
        woken: Arc<AtomicBool>,
        registry: Arc<StreamRegistry>,
    ) -> io::Result<(Self, mio::Waker)> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        let timer_fd = TimerFd::new(poll.registry(), TIMER)?;
        let reactor = Self {
            poll,
            timer_fd,
            listeners: Listeners::default(),
            slots: Slab::new(),
            deadlines: TimerQueue::default(),
            runnable: Vec::new(),
            commands,
            woken,
            registry,
            drain_limit: None,
        };
        Ok((reactor, waker))
    }

    /// Runs for ever: the process's end is its own.
    pub(in crate::driver) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        loop {
            let poll_timeout = self.poll_timeout();
            match self.poll.poll(&mut events, poll_timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("reactor cannot wait: side=internal: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            let now = clock::now();
            scratch::with(|scratch| self.run_once(&events, now, scratch));
        }
    }

    fn run_once(&mut self, events: &Events, now: Millis, scratch: &mut Scratch) {
        for index in std::mem::take(&mut self.runnable) {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.queued = false;
            }
            self.drive_slot(index, now, scratch);
        }
        for event in events {
            match event.token() {
                WAKE => {}
                TIMER => self.timer_fd.fired(),
                token if Listeners::is_listener(token) => self.listeners.mark_ready(token),
                token => {
                    let index = SlotRef::slot_of(token);
                    if let Some(slot) = self.slots.get_mut(index) {
                        slot.record(event);
                    }
                    self.drive_slot(index, now, scratch);
                }
            }
        }
        while let Some((at, index)) = self.deadlines.take_due(now) {
            if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.timer_at == at) {
                slot.timer_at = Slot::NEVER;
                self.drive_slot(index, now, scratch);
            }
        }
        // Before they are taken: who sends one after the last was taken wakes this thread again.
        self.woken.store(false, Ordering::Release);
        while let Ok(command) = self.commands.try_recv() {
            self.receive(command, now, scratch);
        }
        let (listeners, slots, kernel) = (&mut self.listeners, &mut self.slots, self.poll.registry());
        // The kernel reports each of them at once, and then it gets its first turn.
        listeners.accept(now, |client| {
            let _ = insert_slot(slots, kernel, |slot_ref| Slot::of_connection(client, now, slot_ref));
        });
        let draining = self.registry.draining();
        if draining != self.drain_limit {
            self.drain_limit = draining;
            self.drain(now, scratch);
        }
    }

    /// How long to wait for events: not at all while somebody has more to do, otherwise until the timer_fd rings.
    fn poll_timeout(&mut self) -> Option<Duration> {
        let now = clock::now();
        let accept_due = self.listeners.due(now);
        if !self.runnable.is_empty() || accept_due.is_some_and(|due| due <= now) {
            return Some(Duration::ZERO);
        }
        match self.timer_fd.set([self.deadlines.next(), accept_due].into_iter().flatten().min(), now) {
            Ok(()) => None,
            Err(error) => {
                log::error!("timer not set: side=internal: {error}");
                Some(Duration::from_millis(100))
            }
        }
    }

    fn receive(&mut self, command: Command, now: Millis, scratch: &mut Scratch) {
        match command {
            Command::Stream(stream) => {
                let NewStream { stream, client, upstream } = *stream;
                let inserted = insert_slot(&mut self.slots, self.poll.registry(), |slot_ref| {
                    Slot::of_stream(stream, client, upstream, slot_ref)
                });
                if let Some(index) = inserted {
                    self.drive_slot(index, now, scratch);
                }
            }
            Command::Connection(accepted) => {
                insert_slot(&mut self.slots, self.poll.registry(), |slot_ref| {
                    Slot::of_connection(accepted, now, slot_ref)
                });
            }
            Command::Listen(_) if self.drain_limit.is_some() => {}
            Command::Listen(listener) => {
                if let Err(error) = self.listeners.add(listener, self.poll.registry()) {
                    log::error!("listener lost: side=internal: it cannot be waited for: {error}");
                }
            }
        }
    }

    /// Nobody new but those who have come already, and everybody here learns of it.
    fn drain(&mut self, now: Millis, scratch: &mut Scratch) {
        let (listeners, slots, kernel) = (&mut self.listeners, &mut self.slots, self.poll.registry());
        listeners.close(|client| {
            let _ = insert_slot(slots, kernel, |slot_ref| Slot::of_connection(client, now, slot_ref));
        });
        for index in 0..self.slots.capacity() {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.assume_readable();
            }
            self.drive_slot(index, now, scratch);
            if self.slots.get(index).is_some_and(Slot::is_idle) {
                self.slots.remove(index);
            }
        }
    }

    fn drive_slot(&mut self, index: usize, now: Millis, scratch: &mut Scratch) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        scratch.output.clear();
        let slot_ref = SlotRef { kernel: self.poll.registry(), index };
        // One stream's defect must not end the thousands beside it.
        let drive = AssertUnwindSafe(|| slot.drive(slot_ref, &self.registry, now, scratch));
        let action = catch_unwind(drive).unwrap_or_else(|_| {
            log::error!("stream dropped: side=internal: its driver has a defect, the panic is in the log");
            Action::Remove
        });
        match action {
            Action::Remove => {
                self.slots.remove(index);
                return self.shrink();
            }
            Action::HandOff => {
                self.slots.remove(index).hand_off(slot_ref);
                return self.shrink();
            }
            // Once: its turns must not become more the longer it has more to do.
            Action::Again if !slot.queued => {
                slot.queued = true;
                self.runnable.push(index);
            }
            Action::Again | Action::Wait => {}
        }
        let due = slot.due().map_or(Slot::NEVER, |due| due.coarse(now));
        if due < slot.timer_at {
            slot.timer_at = due;
            self.deadlines.add(due, index);
            if self.deadlines.is_overgrown(self.slots.len()) {
                let slots = &self.slots;
                self.deadlines.retain(|at, index| slots.get(index).is_some_and(|slot| slot.timer_at == at));
            }
        }
    }

    /// Everybody has left: forgets deadlines that are nobody's any more, and gives the memory of a wave's slots back.
    fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.deadlines = TimerQueue::default();
            if self.slots.capacity() > EVENTS_PER_WAIT {
                self.slots.shrink_to_fit();
            }
        }
    }
}

/// Gives somebody a slot, if the kernel can watch it.
fn insert_slot(
    slots: &mut Slab<Slot>,
    kernel: &mio::Registry,
    slot: impl FnOnce(SlotRef<'_>) -> io::Result<Slot>,
) -> Option<usize> {
    let entry = slots.vacant_entry();
    let index = entry.key();
    match slot(SlotRef { kernel, index }) {
        Ok(slot) => {
            entry.insert(slot);
            Some(index)
        }
        Err(error) => {
            log::error!("connection dropped: side=internal: it cannot be waited for: {error}");
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
    use crate::driver::reactor::handle::{Handle, ReactorListener};
    use crate::driver::reactor::handler::{ConnectionHandler, Pending, Step};
    use crate::driver::socket::Socket;

    type Heard = Arc<Mutex<Vec<String>>>;

    /// Notes what its clients say first.
    struct Listener(Heard);

    impl ConnectionHandler for Listener {
        fn connected(&self, _: SocketAddr, _: Millis) -> Box<dyn Pending> {
            Box::new(Self(self.0.clone()))
        }
    }

    impl Pending for Listener {
        fn drive(&mut self, client: &mut dyn Socket, _: Option<&mut dyn Socket>, _: Millis, input: &mut [u8]) -> Step {
            match client.read(input) {
                Ok(count) => {
                    self.0.lock().expect("heard").push(String::from_utf8_lossy(&input[..count]).into_owned());
                    Step::Close
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

        fn hand_off(self: Box<Self>, _: TcpStream, _: Option<TcpStream>) {}
    }

    /// A request that has come is served, though the signal came with it. Listeners were closed and clients let go before
    /// anybody had looked whether they had asked: they were reset.
    #[test]
    fn a_drain_lets_in_and_hears_who_has_come_before_it() {
        let registry = Arc::<StreamRegistry>::default();
        let (commands, inbox) = channel();
        let woken = Arc::<AtomicBool>::default();
        let (mut reactor, waker) = Reactor::new(inbox, woken.clone(), registry.clone()).expect("a reactor");
        let reactors = [Handle { commands: commands.clone(), waker: Arc::new(waker), woken }].into();
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
        let listener = ReactorListener { listener, handler: Arc::new(Listener(heard.clone())), reactors };
        commands.send(Command::Listen(listener)).expect("an inbox");
        let nothing = Events::with_capacity(1);
        let mut run_once = || scratch::with(|scratch| reactor.run_once(&nothing, clock::now(), scratch));

        let let_in = call("let in");
        run_once();
        assert!(heard.lock().expect("heard").is_empty(), "nothing has been reported of it");
        let accept_due = call("at the door");
        registry.drain(Duration::from_secs(1));
        run_once();
        let mut heard = heard.lock().expect("heard").clone();
        heard.sort();
        assert_eq!(heard, ["at the door", "let in"]);
        assert!(TcpStream::connect(address).is_err(), "nobody after that");
        drop((let_in, accept_due));
    }
}
