//! A connection's slot in a reactor's table: at first a pending, then a stream.

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
use crate::driver::socket::Socket;
use crate::driver::transport::bound_queue_of;
use crate::stream::Millis;

/// Who has the slot, the sockets, and what the kernel has said of them.
pub(super) struct Slot {
    state: State,
    client: TcpStream,
    upstream: Option<TcpStream>,
    /// When the queue of deadlines will look at this slot; far away when it will not.
    pub(super) timer_at: Millis,
    /// Whether it waits for another turn already.
    pub(super) queued: bool,
    client_readable: Readable,
    upstream_readable: Readable,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are streams: a box would cost each of them an allocation")]
enum State {
    Stream(ActiveStream),
    Pending(Box<dyn Pending>),
}

/// What the kernel is told of a slot's sockets, and under which number.
#[derive(Clone, Copy)]
pub(super) struct SlotRef<'r> {
    pub(super) kernel: &'r mio::Registry,
    pub(super) index: usize,
}

/// What becomes of a slot after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Its turn comes when a socket is ready or a deadline has come.
    Wait,
    /// Its turn comes soon: there may be more to do now, but others wait too.
    Again,
    /// It is free.
    Remove,
    /// It is free, and its pending goes on elsewhere.
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
    /// A stream's. Both of its sockets are watched from here on.
    pub(super) fn of_stream(
        stream: ActiveStream,
        client: TcpStream,
        upstream: TcpStream,
        slot_ref: SlotRef<'_>,
    ) -> std::io::Result<Self> {
        let mut slot = Self::new(State::Stream(stream), client, slot_ref)?;
        slot.watch_upstream(upstream, Interest::READABLE, slot_ref)?;
        // Something may have come before there was anybody to be told.
        slot.upstream_readable = Readable::assumed();
        Ok(slot)
    }

    /// A new client's, which the kernel will report at once, at least as writable.
    pub(super) fn of_connection(accepted: Accepted, now: Millis, slot_ref: SlotRef<'_>) -> std::io::Result<Self> {
        let pending = accepted.handler.connected(accepted.address, now);
        Self::new(State::Pending(pending), accepted.socket, slot_ref)
    }

    fn new(state: State, mut client: TcpStream, slot_ref: SlotRef<'_>) -> std::io::Result<Self> {
        // Interest in writing costs nothing while there is room: the kernel reports it only after there was none.
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

    /// Takes down what the kernel says of one of its sockets.
    pub(super) fn record(&mut self, event: &event::Event) {
        match event.token().0.is_multiple_of(2) {
            true => self.client_readable.record(event),
            false => self.upstream_readable.record(event),
        }
    }

    /// Has the client read even if the kernel has not reported anything yet.
    pub(super) fn assume_readable(&mut self) {
        self.client_readable.assume();
    }

    /// When it wants its turn, whatever the sockets do.
    pub(super) fn due(&self) -> Option<Millis> {
        match &self.state {
            State::Stream(stream) => stream.core.next_deadline(),
            State::Pending(pending) => pending.deadline(),
        }
    }

    /// Whether it is a client that has not asked for anything.
    pub(super) fn is_idle(&self) -> bool {
        matches!(&self.state, State::Pending(pending) if pending.is_idle())
    }

    /// Does everything that can be done now.
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
                        log::error!("request dropped: side=internal: it cannot be waited for: {error}");
                        return Action::Remove;
                    }
                }
                Step::Stream(start) => {
                    bound_queue_of(SockRef::from(&self.client), start.opening.policy.timeouts.write);
                    let stream = ActiveStream::begin(*start, streams.clone(), now);
                    // The pending counts as a request in flight until here.
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

    /// Lets a pending go, with its sockets.
    pub(super) fn hand_off(self, slot_ref: SlotRef<'_>) {
        let Self { state: State::Pending(pending), client, upstream, .. } = self else { return };
        let release = |mut socket: TcpStream| {
            // Another thread waits for it now; a socket that is not watched any more cannot be taken off the list.
            let _ = slot_ref.kernel.deregister(&mut socket);
            std::net::TcpStream::from(socket)
        };
        pending.hand_off(release(client), upstream.map(release));
    }
}
