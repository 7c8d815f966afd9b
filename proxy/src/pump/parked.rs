//! The parked driver: plain TCP on both sides. A stream is two descriptors and its state in a table; one thread waits
//! for all of its streams at once, in the kernel.
//!
//! Each thread owns its table, its queue of deadlines and its buffers, and shares nothing. A deadline is looked at when
//! its time comes, not when an event puts it off: an event costs one read and one write.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, event};
use slab::Slab;
use socket2::SockRef;

use super::alarm::Alarm;
use super::drive::{Next, Running};
use super::registry::Registry;
use super::scratch::Scratch;
use super::socket::{Socket, not_now, peeks, reset};
use super::{clock, scratch};
use crate::stream::Millis;

/// The tokens of the waker and the alarm; streams use twice their slot, and one more for the upstream's side.
const WAKE: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// Readiness events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 1024;

/// A stream on its way into a table.
pub(super) struct Arrival {
    pub(super) running: Running,
    pub(super) client: TcpStream,
    pub(super) upstream: TcpStream,
}

/// A stream in the table.
struct Parked {
    running: Running,
    client: TcpStream,
    upstream: Option<TcpStream>,
    /// When the queue of deadlines will look at this stream; a sentinel far away when it will not.
    timer_at: Millis,
    client_readable: Readable,
    upstream_readable: Readable,
}

/// What the kernel has said of a socket and has not been acted on. It says each thing once.
#[derive(Clone, Copy, Default)]
struct Readable {
    now: bool,
    /// The peer has sent its last byte, or the connection failed: nothing more will be said.
    ended: bool,
}

const NEVER: Millis = Millis(u64::MAX);

/// One thread's streams.
pub(super) struct Reactor {
    poll: Poll,
    alarm: Alarm,
    streams: Slab<Parked>,
    /// When to look at which stream. An entry whose time is no longer its stream's `timer_at` is stale and skipped.
    deadlines: BinaryHeap<Reverse<(Millis, u32)>>,
    /// Streams that had more to do when their turn was over.
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
            streams: Slab::new(),
            deadlines: BinaryHeap::new(),
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
            self.turn(slot, now, scratch);
        }
        for event in events {
            match event.token() {
                WAKE => {}
                ALARM => self.alarm.rang(),
                Token(token) => {
                    self.note(event);
                    self.turn(token / 2, now, scratch);
                }
            }
        }
        while let Some(Reverse((at, slot))) = self.deadlines.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.deadlines.pop();
            let slot = slot as usize;
            if let Some(parked) = self.streams.get_mut(slot).filter(|parked| parked.timer_at == at) {
                parked.timer_at = NEVER;
                self.turn(slot, now, scratch);
            }
        }
        // Before they are taken: who sends one after the last was taken wakes this thread again.
        self.called.store(false, Ordering::Release);
        while let Ok(arrival) = self.arrivals.try_recv() {
            if let Some(slot) = self.admit(arrival) {
                self.turn(slot, now, scratch);
            }
        }
        let draining = self.registry.draining();
        if draining != self.drained_to {
            self.drained_to = draining;
            for slot in 0..self.streams.capacity() {
                self.turn(slot, now, scratch);
            }
        }
    }

    /// How long to wait for events: not at all while some stream has more to do, otherwise until the alarm rings.
    fn patience(&mut self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.deadlines.peek().map(|Reverse((at, _))| *at);
        match self.alarm.set(next, clock::now()) {
            Ok(()) => None,
            Err(error) => {
                log::error!("side=internal: the alarm cannot be set: {error}");
                Some(Duration::from_millis(100))
            }
        }
    }

    fn admit(&mut self, arrival: Arrival) -> Option<usize> {
        let Arrival { running, mut client, mut upstream } = arrival;
        let entry = self.streams.vacant_entry();
        let slot = entry.key();
        let registry = self.poll.registry();
        // Interest in writing costs nothing while there is room: the kernel reports it only after there was none.
        let registered = registry
            .register(&mut client, Token(2 * slot), Interest::READABLE | Interest::WRITABLE)
            .and_then(|()| registry.register(&mut upstream, Token(2 * slot + 1), Interest::READABLE));
        if let Err(error) = registered {
            log::error!("side=internal: a stream is dropped, it cannot be waited for: {error}");
            return None;
        }
        entry.insert(Parked {
            running,
            client,
            upstream: Some(upstream),
            timer_at: NEVER,
            client_readable: Readable::default(),
            // Something may have come before there was anybody to be told.
            upstream_readable: Readable { now: true, ended: false },
        });
        Some(slot)
    }

    fn note(&mut self, event: &event::Event) {
        let Some(parked) = self.streams.get_mut(event.token().0 / 2) else { return };
        let side =
            if event.token().0.is_multiple_of(2) { &mut parked.client_readable } else { &mut parked.upstream_readable };
        let ended = event.is_read_closed() || event.is_error();
        side.now |= event.is_readable() || ended;
        side.ended |= ended;
    }

    fn turn(&mut self, slot: usize, now: Millis, scratch: &mut Scratch) {
        let Some(parked) = self.streams.get_mut(slot) else { return };
        scratch.output.clear();
        // One stream's defect must not end the thousands beside it.
        let next = catch_unwind(AssertUnwindSafe(|| parked.turn(now, scratch))).unwrap_or_else(|_| {
            log::error!("side=internal: a stream is dropped after a defect in its driver");
            Next::Done
        });
        match next {
            Next::Done => {
                self.streams.remove(slot);
                self.shrink();
                return;
            }
            Next::Again => self.again.push(slot),
            Next::Wait => {}
        }
        let due = parked.running.core.next_deadline().map_or(NEVER, |due| due.coarse(now));
        if due < parked.timer_at {
            parked.timer_at = due;
            self.deadlines.push(Reverse((due, slot as u32)));
        }
    }

    /// A wave of streams has left: gives the memory of their places back.
    fn shrink(&mut self) {
        if self.streams.is_empty() && self.streams.capacity() > EVENTS_PER_WAIT {
            self.streams.shrink_to_fit();
            self.deadlines = BinaryHeap::new();
        }
    }
}

impl Parked {
    fn turn(&mut self, now: Millis, scratch: &mut Scratch) -> Next {
        let mut client = Edge { socket: &self.client, readable: &mut self.client_readable };
        let mut upstream = self.upstream.as_ref().map(|socket| Edge { socket, readable: &mut self.upstream_readable });
        let next = self.running.turn(&mut client, &mut upstream, now, scratch);
        if upstream.is_none() {
            self.upstream = None;
        }
        next
    }
}

/// A socket whose readiness the kernel reports once: it is read only after it was reported, until it has no more.
struct Edge<'a> {
    socket: &'a TcpStream,
    readable: &'a mut Readable,
}

impl Socket for Edge<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.readable.now {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    // Less than there was room for is all there was. What comes later is reported again, but an end
                    // that has been reported already has still to be read.
                    let all = result.as_ref().is_ok_and(|count| *count < buffer.len()) && !self.readable.ended;
                    if all || result.as_ref().is_err_and(not_now) {
                        self.readable.now = false;
                    }
                    return result;
                }
            }
        }
    }

    fn has_unread(&mut self) -> bool {
        peeks(SockRef::from(self.socket))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    fn reset_on_close(&mut self, _abandoned: bool) -> io::Result<()> {
        reset(SockRef::from(self.socket));
        Ok(())
    }
}
