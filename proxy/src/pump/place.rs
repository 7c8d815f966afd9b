//! A connection's place in a reactor's table: at first a candidate, then a stream.

use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Token, event};
use socket2::SockRef;

use super::candidate::{Candidate, Step};
use super::doors::Client;
use super::drive::{Next, Running};
use super::edge::{Edge, Readable};
use super::registry::Registry;
use super::scratch::Scratch;
use super::socket::Socket;
use super::transport::bound_queue_of;
use crate::stream::Millis;

/// Who has the place, the sockets, and what the kernel has said of them.
pub(super) struct Place {
    tenant: Tenant,
    client: TcpStream,
    upstream: Option<TcpStream>,
    /// When the queue of deadlines will look at this place; far away when it will not.
    pub(super) timer_at: Millis,
    /// Whether it waits for another turn already.
    pub(super) queued: bool,
    client_readable: Readable,
    upstream_readable: Readable,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are streams: a box would cost each of them an allocation")]
enum Tenant {
    Stream(Running),
    Candidate(Box<dyn Candidate>),
}

/// What the kernel is told of a place's sockets, and under which number.
#[derive(Clone, Copy)]
pub(super) struct Site<'r> {
    pub(super) kernel: &'r mio::Registry,
    pub(super) slot: usize,
}

/// What becomes of a place after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its turn comes when a socket is ready or a deadline has come.
    Wait,
    /// Its turn comes soon: there may be more to do now, but others wait too.
    Again,
    /// It is free.
    Free,
    /// It is free, and its candidate goes on elsewhere.
    Left,
}

impl Site<'_> {
    /// The slot that a socket's token belongs to.
    pub(super) fn slot_of(token: Token) -> usize {
        token.0 / 2
    }

    fn client(self) -> Token {
        Token(2 * self.slot)
    }

    fn upstream(self) -> Token {
        Token(2 * self.slot + 1)
    }
}

impl Place {
    /// A stream's. Both of its sockets are watched from here on.
    pub(super) fn of_stream(
        running: Running,
        client: TcpStream,
        upstream: TcpStream,
        site: Site<'_>,
    ) -> std::io::Result<Self> {
        let mut place = Self::new(Tenant::Stream(running), client, site)?;
        place.watch_upstream(upstream, Interest::READABLE, site)?;
        // Something may have come before there was anybody to be told.
        place.upstream_readable = Readable::perhaps();
        Ok(place)
    }

    /// A new client's, which the kernel will report at once, at least as writable.
    pub(super) fn of_client(client: Client, now: Millis, site: Site<'_>) -> std::io::Result<Self> {
        let candidate = client.reception.meet(client.address, now);
        Self::new(Tenant::Candidate(candidate), client.socket, site)
    }

    fn new(tenant: Tenant, mut client: TcpStream, site: Site<'_>) -> std::io::Result<Self> {
        // Interest in writing costs nothing while there is room: the kernel reports it only after there was none.
        site.kernel.register(&mut client, site.client(), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            tenant,
            client,
            upstream: None,
            timer_at: Self::NEVER,
            queued: false,
            client_readable: Readable::default(),
            upstream_readable: Readable::default(),
        })
    }

    /// The `timer_at` of a place that waits for no deadline.
    pub(super) const NEVER: Millis = Millis(u64::MAX);

    /// Takes down what the kernel says of one of its sockets.
    pub(super) fn note(&mut self, event: &event::Event) {
        match event.token().0.is_multiple_of(2) {
            true => self.client_readable.note(event),
            false => self.upstream_readable.note(event),
        }
    }

    /// Has the client read even if the kernel has not reported anything yet.
    pub(super) fn presume_readable(&mut self) {
        self.client_readable.presume();
    }

    /// When it wants its turn, whatever the sockets do.
    pub(super) fn due(&self) -> Option<Millis> {
        match &self.tenant {
            Tenant::Stream(running) => running.core.next_deadline(),
            Tenant::Candidate(candidate) => candidate.deadline(),
        }
    }

    /// Whether it is a client that has not asked for anything.
    pub(super) fn is_idle(&self) -> bool {
        matches!(&self.tenant, Tenant::Candidate(candidate) if candidate.is_idle())
    }

    /// Does everything that can be done now.
    pub(super) fn turn(&mut self, site: Site<'_>, books: &Arc<Registry>, now: Millis, scratch: &mut Scratch) -> Fate {
        loop {
            let step = match &mut self.tenant {
                Tenant::Stream(_) => return self.stream_turn(now, scratch),
                Tenant::Candidate(candidate) => {
                    let mut client = Edge { socket: &self.client, readable: &mut self.client_readable };
                    let mut upstream =
                        self.upstream.as_ref().map(|socket| Edge { socket, readable: &mut self.upstream_readable });
                    let upstream = upstream.as_mut().map(|upstream| upstream as &mut dyn Socket);
                    candidate.turn(&mut client, upstream, now, &mut scratch.input)
                }
            };
            match step {
                Step::Wait => return Fate::Wait,
                Step::Again => return Fate::Again,
                Step::Upstream { socket, writable } => {
                    let interest = if writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                    let watched = self.watch_upstream(TcpStream::from_std(socket), interest, site);
                    if let Err(error) = watched {
                        log::error!("side=internal: a request is dropped, it cannot be waited for: {error}");
                        return Fate::Free;
                    }
                }
                Step::Stream(start) => {
                    bound_queue_of(SockRef::from(&self.client), start.opening.policy.timeouts.write);
                    let running = Running::begin(*start, books.clone(), now);
                    // The candidate counts as a request in flight until here.
                    self.tenant = Tenant::Stream(running);
                }
                Step::Leave => return Fate::Left,
                Step::Gone => return Fate::Free,
            }
        }
    }

    fn stream_turn(&mut self, now: Millis, scratch: &mut Scratch) -> Fate {
        let Tenant::Stream(running) = &mut self.tenant else { return Fate::Wait };
        let mut client = Edge { socket: &self.client, readable: &mut self.client_readable };
        let mut upstream = self.upstream.as_ref().map(|socket| Edge { socket, readable: &mut self.upstream_readable });
        let next = running.turn(&mut client, &mut upstream, now, scratch);
        if upstream.is_none() {
            self.upstream = None;
        }
        match next {
            Next::Wait => Fate::Wait,
            Next::Again => Fate::Again,
            Next::Done => Fate::Free,
        }
    }

    fn watch_upstream(&mut self, mut socket: TcpStream, interest: Interest, site: Site<'_>) -> std::io::Result<()> {
        site.kernel.register(&mut socket, site.upstream(), interest)?;
        self.upstream = Some(socket);
        self.upstream_readable = Readable::default();
        Ok(())
    }

    /// Lets a candidate go, with its sockets.
    pub(super) fn leave(self, site: Site<'_>) {
        let Self { tenant: Tenant::Candidate(candidate), client, upstream, .. } = self else { return };
        let release = |mut socket: TcpStream| {
            // Another thread waits for it now; a socket that is not watched any more cannot be taken off the list.
            let _ = site.kernel.deregister(&mut socket);
            std::net::TcpStream::from(socket)
        };
        candidate.leave(release(client), upstream.map(release));
    }
}
