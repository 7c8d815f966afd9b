//! A connection's slot in a reactor's table: first a pending connection, then a stream.

use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Token, event};
use socket2::SockRef;

use super::edge::{Edge, Readable};
use super::handle::Accepted;
use super::handler::{Pending, Step};
use crate::driver::drive::{ActiveStream, DriveOutcome};
use crate::driver::registry::StreamRegistry;
use crate::driver::scratch::Scratch;
use crate::driver::socket::{Socket, reset};
use crate::driver::transport::bound_queue_of;
use crate::driver::visit::Visit;
use crate::stream::Millis;

/// A connection or a stream with its sockets and their readiness.
pub(super) struct Slot {
    state: State,
    client: TcpStream,
    upstream: Option<TcpStream>,
    /// When the timer queue checks this slot next; [`Slot::NEVER`] when it does not.
    pub(super) timer_at: Millis,
    /// Whether the slot is in the reactor's list of runnable slots.
    pub(super) queued: bool,
    client_readable: Readable,
    upstream_readable: Readable,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are streams: a box would cost each of them an allocation")]
enum State {
    Stream(ActiveStream),
    Pending(Box<dyn Pending>),
}

/// A slot's index, and the kernel's registry in which its sockets are registered.
#[derive(Clone, Copy)]
pub(super) struct SlotRef<'r> {
    pub(super) kernel: &'r mio::Registry,
    pub(super) index: usize,
}

/// What the reactor does with a slot after [`Slot::drive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Drive it when a socket is ready or a deadline has expired.
    Wait,
    /// Drive it again soon: it yielded to others with work left.
    Again,
    /// Remove it.
    Remove,
    /// Remove it and hand its connection off.
    HandOff,
}

impl SlotRef<'_> {
    /// The slot that a socket's token belongs to.
    pub(super) fn slot_of(token: Token) -> usize {
        token.0 / 2
    }

    fn client(self) -> Token {
        Token(2 * self.index)
    }

    fn upstream(self) -> Token {
        Token(2 * self.index + 1)
    }
}

impl Slot {
    /// The slot of a stream. Registers both sockets.
    pub(super) fn of_stream(
        stream: ActiveStream,
        client: TcpStream,
        upstream: TcpStream,
        slot_ref: SlotRef<'_>,
    ) -> std::io::Result<Self> {
        let mut slot = Self::new(State::Stream(stream), client, slot_ref)?;
        slot.watch_upstream(upstream, Interest::READABLE, slot_ref)?;
        // Bytes may have arrived before the socket was registered.
        slot.upstream_readable = Readable::assumed();
        Ok(slot)
    }

    /// The slot of a new connection. The kernel reports it at once, at least as writable.
    pub(super) fn of_connection(accepted: Accepted, now: Millis, slot_ref: SlotRef<'_>) -> std::io::Result<Self> {
        let pending = accepted.handler.connected(accepted.address, now);
        Self::new(State::Pending(pending), accepted.socket, slot_ref)
    }

    fn new(state: State, mut client: TcpStream, slot_ref: SlotRef<'_>) -> std::io::Result<Self> {
        // Interest in writing costs nothing while the socket is writable: the kernel reports only the change.
        slot_ref.kernel.register(&mut client, slot_ref.client(), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            state,
            client,
            upstream: None,
            timer_at: Self::NEVER,
            queued: false,
            client_readable: Readable::default(),
            upstream_readable: Readable::default(),
        })
    }

    /// The `timer_at` of a slot that waits for no deadline.
    pub(super) const NEVER: Millis = Millis(u64::MAX);

    /// Records an event of one of its sockets.
    pub(super) fn record(&mut self, event: &event::Event) {
        match event.token().0.is_multiple_of(2) {
            true => self.client_readable.record(event),
            false => self.upstream_readable.record(event),
        }
    }

    /// Makes the next call read from the client even if the kernel has not reported anything yet.
    pub(super) fn assume_readable(&mut self) {
        self.client_readable.assume();
    }

    /// The next deadline.
    pub(super) fn due(&self) -> Option<Millis> {
        match &self.state {
            State::Stream(stream) => stream.pair.next_deadline(),
            State::Pending(pending) => pending.deadline(),
        }
    }

    /// Whether the slot holds a connection without a request.
    pub(super) fn is_idle(&self) -> bool {
        matches!(&self.state, State::Pending(pending) if pending.is_idle())
    }

    /// Makes all progress that is possible now.
    pub(super) fn drive(
        &mut self,
        slot_ref: SlotRef<'_>,
        streams: &Arc<StreamRegistry>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> Action {
        loop {
            let step = match &mut self.state {
                State::Stream(_) => return self.drive_stream(now, scratch),
                State::Pending(pending) => {
                    let mut client = Edge { socket: &self.client, readable: &mut self.client_readable };
                    let mut upstream =
                        self.upstream.as_ref().map(|socket| Edge { socket, readable: &mut self.upstream_readable });
                    let upstream = upstream.as_mut().map(|upstream| upstream as &mut dyn Socket);
                    pending.drive(&mut client, upstream, now, &mut scratch.input)
                }
            };
            match step {
                Step::Wait => return Action::Wait,
                Step::Again => return Action::Again,
                Step::Upstream { socket, writable } => {
                    let interest = if writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                    let watched = self.watch_upstream(TcpStream::from_std(socket), interest, slot_ref);
                    if let Err(error) = watched {
                        log::error!(
                            "request dropped: side=internal: its upstream socket cannot be registered: {error}"
                        );
                        return Action::Remove;
                    }
                }
                Step::Stream(start) => {
                    bound_queue_of(SockRef::from(&self.client), start.opening.policy.timeouts.write);
                    let stream = ActiveStream::begin(*start, streams.clone(), now);
                    // The connection counts as a request in flight until here.
                    self.state = State::Stream(stream);
                }
                Step::HandOff => return Action::HandOff,
                Step::Close => return Action::Remove,
            }
        }
    }

    fn drive_stream(&mut self, now: Millis, scratch: &mut Scratch) -> Action {
        let State::Stream(stream) = &mut self.state else { return Action::Wait };
        let mut client = Edge { socket: &self.client, readable: &mut self.client_readable };
        let mut upstream = self.upstream.as_ref().map(|socket| Edge { socket, readable: &mut self.upstream_readable });
        let next = stream.drive(&mut client, &mut upstream, now, scratch);
        if upstream.is_none() {
            self.upstream = None;
        }
        match next {
            DriveOutcome::Wait => Action::Wait,
            DriveOutcome::Again => Action::Again,
            DriveOutcome::Done => Action::Remove,
        }
    }

    /// Shows the slot's stream to a visitor. Returns whether it has to be driven afterwards.
    pub(super) fn visit(&mut self, visit: &Visit, reactor: u32, index: usize, now: Millis) -> bool {
        let State::Stream(stream) = &mut self.state else { return false };
        let changed = stream.visit(visit, reactor, u32::try_from(index).unwrap_or(u32::MAX), now);
        if changed.policy {
            bound_queue_of(SockRef::from(&self.client), stream.pair.policy().timeouts.write);
        }
        changed.any()
    }

    /// Makes the client see that its response is incomplete.
    pub(super) fn reset_client(&self) {
        reset(SockRef::from(&self.client));
    }

    fn watch_upstream(
        &mut self,
        mut socket: TcpStream,
        interest: Interest,
        slot_ref: SlotRef<'_>,
    ) -> std::io::Result<()> {
        slot_ref.kernel.register(&mut socket, slot_ref.upstream(), interest)?;
        self.upstream = Some(socket);
        self.upstream_readable = Readable::default();
        Ok(())
    }

    /// Hands a pending connection off, with its sockets.
    pub(super) fn hand_off(self, slot_ref: SlotRef<'_>) {
        let Self { state: State::Pending(pending), client, upstream, .. } = self else { return };
        let release = |mut socket: TcpStream| {
            // Another thread registers it next. An error means that it is not registered, which is the goal.
            let _ = slot_ref.kernel.deregister(&mut socket);
            std::net::TcpStream::from(socket)
        };
        pending.hand_off(release(client), upstream.map(release));
    }
}
