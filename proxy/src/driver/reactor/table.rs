//! The parked driver, for plain TCP on both sides. A stream is two descriptors and an entry in a table. One thread
//! waits with epoll for all of its streams, and for the connections that may become streams.
//!
//! Each thread owns its table, its timer queue and its buffers, and shares nothing. The timer queue is not updated when
//! an event postpones a deadline, only when the old deadline expires: an event costs one read and one write.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use slab::Slab;

use super::handle::{Command, NewStream};
use super::listeners::Listeners;
use super::slot::{Action, Slot, SlotRef};
use super::timer_fd::TimerFd;
use super::timer_queue::TimerQueue;
use crate::driver::registry::StreamRegistry;
use crate::driver::scratch::Scratch;
use crate::driver::visit::Visit;
use crate::driver::{clock, scratch};
use crate::stream::{Drain, Millis};

/// The tokens of the waker and the timer_fd; listeners have those below, and slots twice their index and one more.
const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Readiness events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 1024;

/// How long a pass over the table may hold the thread before events are handled again.
const SLICE: Duration = Duration::from_millis(2);

/// A pass over the table, in slices.
struct Pass {
    next: usize,
    task: PassTask,
}

enum PassTask {
    /// Drive every slot, so that it sees the drain.
    Drain,
    /// Show every stream to a visitor; the reactor's number is part of their names.
    Visit(Arc<Visit>, u32),
}

/// One thread's streams.
pub(in crate::driver) struct Reactor {
    poll: Poll,
    timer_fd: TimerFd,
    listeners: Listeners,
    slots: Slab<Slot>,
    /// When to check which slot. An entry whose time differs from its slot's `timer_at` is stale and skipped.
    deadlines: TimerQueue,
    /// Slots that yielded with work left.
    runnable: Vec<usize>,
    /// Passes under way, in the order in which they were asked for.
    passes: Vec<Pass>,
    commands: Receiver<Command>,
    /// Set with each command that is sent, cleared before commands are received.
    woken: Arc<AtomicBool>,
    registry: Arc<StreamRegistry>,
    /// The drain that has been applied to the streams.
    drain: Option<Drain>,
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
            passes: Vec::new(),
            commands,
            woken,
            registry,
            drain: None,
        };
        Ok((reactor, waker))
    }

    /// Runs until the process exits.
    pub(in crate::driver) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        loop {
            let poll_timeout = self.poll_timeout();
            match self.poll.poll(&mut events, poll_timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("epoll failed: side=internal: {error}");
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
        // Cleared before receiving: a command sent after the last one was received wakes this thread again.
        self.woken.store(false, Ordering::Release);
        while let Ok(command) = self.commands.try_recv() {
            self.receive(command, now, scratch);
        }
        let (listeners, slots, kernel) = (&mut self.listeners, &mut self.slots, self.poll.registry());
        // The kernel reports each new socket at once, which drives its slot for the first time.
        listeners.accept(now, |client| {
            let _ = insert_slot(slots, kernel, |slot_ref| Slot::of_connection(client, now, slot_ref));
        });
        let draining = self.registry.draining();
        if draining != self.drain {
            self.drain = draining;
            self.drain(now);
        }
        if !self.passes.is_empty() {
            self.continue_passes(now, scratch);
        }
    }

    /// How long to wait for events: not at all while a slot is runnable, otherwise until the timer fires.
    fn poll_timeout(&mut self) -> Option<Duration> {
        let now = clock::now();
        let accept_due = self.listeners.due(now);
        if !self.runnable.is_empty() || !self.passes.is_empty() || accept_due.is_some_and(|due| due <= now) {
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
            Command::Visit(visit, reactor) => self.passes.push(Pass { next: 0, task: PassTask::Visit(visit, reactor) }),
            Command::Listen(_) if self.drain.is_some() => {}
            Command::Listen(listener) => {
                if let Err(error) = self.listeners.add(listener, self.poll.registry()) {
                    log::error!("listener closed: side=internal: it cannot be registered with epoll: {error}");
                }
            }
            Command::Answer(answer) => drop(answer.send(())),
            Command::Close(id, closed) => {
                let (listeners, slots, kernel) = (&mut self.listeners, &mut self.slots, self.poll.registry());
                listeners.close_one(id, kernel, |client| {
                    let _ = insert_slot(slots, kernel, |slot_ref| Slot::of_connection(client, now, slot_ref));
                });
                // Whoever closed it may have stopped waiting.
                let _ = closed.send(());
            }
        }
    }

    /// Accepts what is queued, closes the listeners, and begins to drive every slot so that it sees the drain.
    fn drain(&mut self, now: Millis) {
        let (listeners, slots, kernel) = (&mut self.listeners, &mut self.slots, self.poll.registry());
        listeners.close(|client| {
            let _ = insert_slot(slots, kernel, |slot_ref| Slot::of_connection(client, now, slot_ref));
        });
        self.passes.push(Pass { next: 0, task: PassTask::Drain });
    }

    /// Continues the passes over the table until their slice of time is over.
    #[cold]
    fn continue_passes(&mut self, now: Millis, scratch: &mut Scratch) {
        let until = Instant::now() + SLICE;
        while !self.passes.is_empty() {
            let mut pass = self.passes.remove(0);
            while pass.next < self.slots.capacity() {
                self.pass_over(pass.next, &pass.task, now, scratch);
                pass.next += 1;
                if Instant::now() >= until {
                    return self.passes.insert(0, pass);
                }
            }
            if let PassTask::Visit(visit, _) = pass.task {
                visit.one_finished();
            }
        }
    }

    fn pass_over(&mut self, index: usize, task: &PassTask, now: Millis, scratch: &mut Scratch) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match task {
            PassTask::Drain => {
                slot.assume_readable();
                self.drive_slot(index, now, scratch);
                if self.slots.get(index).is_some_and(Slot::is_idle) {
                    self.slots.remove(index);
                }
            }
            PassTask::Visit(visit, reactor) => {
                // A defect in a visitor must not end the other streams.
                let changed = catch_unwind(AssertUnwindSafe(|| slot.visit(visit, *reactor, index, now)));
                if changed.is_ok_and(|changed| changed) {
                    self.drive_slot(index, now, scratch);
                }
            }
        }
    }

    fn drive_slot(&mut self, index: usize, now: Millis, scratch: &mut Scratch) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        scratch.output.clear();
        let slot_ref = SlotRef { kernel: self.poll.registry(), index };
        // A panic in one stream must not end the others.
        let drive = AssertUnwindSafe(|| slot.drive(slot_ref, &self.registry, now, scratch));
        let action = catch_unwind(drive).unwrap_or_else(|_| {
            log::error!("stream dropped: side=internal: its driver panicked; the panic is logged above");
            slot.reset_client();
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
            // At most one entry for each slot.
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

    /// Once the table is empty, drops stale deadlines and releases the memory of a burst.
    fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.deadlines = TimerQueue::default();
            if self.slots.capacity() > EVENTS_PER_WAIT {
                self.slots.shrink_to_fit();
            }
        }
    }
}

/// Inserts a slot, unless its sockets cannot be registered.
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
            log::error!("connection dropped: side=internal: it cannot be registered with epoll: {error}");
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
    use crate::driver::drive::ActiveStream;
    use crate::driver::reactor::handle::{Handle, ReactorListener};
    use crate::driver::reactor::handler::{ConnectionHandler, Pending, Step};
    use crate::driver::socket::Socket;
    use crate::driver::visit::{RunningStream, Visitor};
    use crate::driver::{Route, Start, StreamInfo};
    use crate::stream::{Framing, Opening, Policy};
    use crate::wire::body::Body;

    /// A stream of a route with the default rules.
    fn start(target: &str) -> Start {
        let route = Route::new("/", Policy::default(), Arc::new(()));
        let (policy, body) = (route.policy.clone(), Body::UntilClose);
        let opening = Opening { policy, body, framing: Framing::Plain, identity: true, random: 0.0, lifetime: None };
        let info = StreamInfo::new(None, None, "GET", target, Duration::ZERO);
        Start { opening, unsent: Vec::new(), leftover: Vec::new(), route, info }
    }

    /// Of a 64-bit machine, measured before visits were there.
    const SLOT_BYTES: usize = 272;

    type FirstBytes = Arc<Mutex<Vec<String>>>;

    /// Records the first bytes of each connection.
    struct FirstBytesRecorder(FirstBytes);

    impl ConnectionHandler for FirstBytesRecorder {
        fn connected(&self, _: SocketAddr, _: Millis) -> Box<dyn Pending> {
            Box::new(Self(self.0.clone()))
        }
    }

    impl Pending for FirstBytesRecorder {
        fn drive(&mut self, client: &mut dyn Socket, _: Option<&mut dyn Socket>, _: Millis, input: &mut [u8]) -> Step {
            match client.read(input) {
                Ok(count) => {
                    self.0.lock().expect("received").push(String::from_utf8_lossy(&input[..count]).into_owned());
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

    /// Invariant: a request sent before a drain is served. Mechanism: the drain closed the listeners and the idle
    /// connections without reading from them first. Symptom: such connections were reset.
    #[test]
    fn a_drain_accepts_queued_connections_and_reads_from_idle_ones() {
        let registry = Arc::<StreamRegistry>::default();
        let (commands, inbox) = channel();
        let woken = Arc::<AtomicBool>::default();
        let (mut reactor, waker) = Reactor::new(inbox, woken.clone(), registry.clone()).expect("a reactor");
        let reactors = [Handle { commands: commands.clone(), waker: Arc::new(waker), woken }].into();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("an address");
        let connect_and_send = |text: &str| {
            let mut client = TcpStream::connect(address).expect("the listener's queue");
            client.write_all(text.as_bytes()).expect("room");
            client
        };
        let received = FirstBytes::default();
        let listener = mio::net::TcpListener::from_std(listener);
        let listener =
            ReactorListener { id: 0, listener, handler: Arc::new(FirstBytesRecorder(received.clone())), reactors };
        commands.send(Command::Listen(listener)).expect("an inbox");
        let nothing = Events::with_capacity(1);
        let mut run_once = || scratch::with(|scratch| reactor.run_once(&nothing, clock::now(), scratch));

        let accepted = connect_and_send("accepted");
        run_once();
        assert!(received.lock().expect("received").is_empty(), "nothing has been read yet");
        let queued = connect_and_send("queued");
        registry.drain(Duration::from_secs(1));
        run_once();
        let mut received = received.lock().expect("received").clone();
        received.sort();
        assert_eq!(received, ["accepted", "queued"]);
        assert!(TcpStream::connect(address).is_err(), "the listener is closed");
        drop((accepted, queued));
    }

    /// Invariant: a visit of all streams delays no event by more than some milliseconds. Mechanism: a pass over a whole table holds
    /// the thread. Symptom: events of all streams are late while an operator lists ten thousand.
    #[test]
    fn a_visit_of_many_streams_gives_way_to_events() {
        const STREAMS: usize = 20;
        let registry = Arc::<StreamRegistry>::default();
        let (commands, inbox) = channel();
        let (mut reactor, _waker) = Reactor::new(inbox, Arc::default(), registry.clone()).expect("a reactor");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connection = || {
            let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            let (far, _) = listener.accept().expect("a connection");
            near.set_nonblocking(true).expect("an option");
            (mio::net::TcpStream::from_std(near), far)
        };
        let mut peers = Vec::new();
        for _ in 0..STREAMS {
            let ((client, far_client), (upstream, far_upstream)) = (connection(), connection());
            peers.push((far_client, far_upstream));
            let stream = ActiveStream::begin(start("/events"), registry.clone(), clock::now());
            commands.send(Command::Stream(Box::new(NewStream { stream, client, upstream }))).expect("an inbox");
        }
        let visited = Arc::new(Mutex::new(Vec::new()));
        let seen = visited.clone();
        let visitor: Arc<Visitor> = Arc::new(move |stream: &mut RunningStream<'_>| {
            std::thread::sleep(SLICE);
            seen.lock().expect("a list").push(stream.id());
        });
        let under_way = registry.begin_visit(visitor, 1);
        commands.send(Command::Visit(under_way.visit.clone(), 1)).expect("an inbox");
        let nothing = Events::with_capacity(1);
        for slices in 1..=STREAMS {
            scratch::with(|scratch| reactor.run_once(&nothing, clock::now(), scratch));
            assert_eq!(visited.lock().expect("a list").len(), slices, "one stream takes all of a slice");
            assert!(slices == STREAMS || reactor.poll_timeout() == Some(Duration::ZERO), "the rest follows at once");
        }
        scratch::with(|scratch| reactor.run_once(&nothing, clock::now(), scratch));
        assert!(reactor.passes.is_empty());
        let mut visited = visited.lock().expect("a list").iter().map(ToString::to_string).collect::<Vec<_>>();
        visited.sort();
        visited.dedup();
        assert_eq!(visited.len(), STREAMS, "each once");
    }

    /// What is promised: a silent stream costs no more than this for what can be asked of it from outside.
    #[test]
    fn a_slot_is_as_small_as_it_was_without_visits_and_drains() {
        assert_eq!(size_of::<Slot>(), SLOT_BYTES);
    }
}
