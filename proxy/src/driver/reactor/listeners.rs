//! The listeners that a reactor accepts from.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::{Interest, Registry, Token};
use slab::Slab;

use super::handle::{Accepted, ReactorListener};
use crate::driver::descriptors;
use crate::driver::transport::canonical;
use crate::stream::Millis;

/// Connections accepted in one pass, before streams are handled again.
const ACCEPTS_PER_ROUND: usize = 64;

/// More than the accept queue of a listener holds.
const LONGEST_QUEUE: usize = 1 << 16;

/// How long accepting pauses once the system has run out of a resource, usually descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The listeners of one reactor.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Slab<ReactorListener>,
    /// The reactor that gets the next connection.
    next: usize,
    /// Listeners that may have connections to accept, in round-robin order.
    ready: VecDeque<usize>,
    /// Nothing is accepted before this.
    paused_until: Option<Millis>,
    /// Whether the last connection took a descriptor out of the reserve.
    scarce: bool,
}

impl Listeners {
    /// The tokens of listeners count down from this one.
    const FIRST: usize = usize::MAX - 16;

    /// Whether a token is a listener's; no table is as large as that.
    pub(super) fn is_listener(token: Token) -> bool {
        token.0 <= Self::FIRST && token.0 > usize::MAX / 2
    }

    /// Adds a listener.
    ///
    /// # Errors
    /// When it cannot be registered with the kernel.
    pub(super) fn add(&mut self, mut listener: ReactorListener, registry: &Registry) -> io::Result<()> {
        let entry = self.listeners.vacant_entry();
        let key = entry.key();
        registry.register(&mut listener.listener, Token(Self::FIRST - key), Interest::READABLE)?;
        entry.insert(listener);
        if !self.ready.contains(&key) {
            self.ready.push_back(key);
        }
        Ok(())
    }

    /// Records that the kernel reported connections to accept.
    pub(super) fn mark_ready(&mut self, token: Token) {
        let listener = Self::FIRST - token.0;
        if !self.ready.contains(&listener) {
            self.ready.push_back(listener);
        }
    }

    /// Accepts what is in the queues and closes the listeners. A connection still queued when its listener closes would be
    /// reset.
    pub(super) fn close(&mut self, mut own: impl FnMut(Accepted)) {
        for (_, listener) in std::mem::take(self).listeners {
            accept_queued(&listener, &mut own);
        }
    }

    /// Does the same for the listener of this number, if there is one.
    pub(super) fn close_one(&mut self, id: u64, registry: &Registry, mut own: impl FnMut(Accepted)) {
        let Some(key) = self.listeners.iter().find_map(|(key, listener)| (listener.id == id).then_some(key)) else {
            return;
        };
        let mut listener = self.listeners.remove(key);
        // Another descriptor may keep the socket open, and the kernel would go on reporting its connections here.
        if let Err(error) = registry.deregister(&mut listener.listener) {
            log::error!("listener not removed from epoll: side=internal: {error}");
        }
        accept_queued(&listener, &mut own);
    }

    /// When to call [`Listeners::accept`] next; `None` when no listener is ready.
    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        (!self.ready.is_empty()).then(|| self.paused_until.unwrap_or(now))
    }

    /// Accepts a bounded number of connections and distributes them over the reactors; `own` gets those of this one.
    pub(super) fn accept(&mut self, now: Millis, mut own: impl FnMut(Accepted)) {
        if self.due(now).is_none_or(|due| due > now) {
            return;
        }
        // Accepted connections may still need upstream connections; the reserve is for the admin listener.
        if self.scarce && descriptors::are_scarce() {
            return self.pause(now, &descriptors::none_left());
        }
        self.scarce = false;
        for _ in 0..ACCEPTS_PER_ROUND {
            let Some(at) = self.ready.front().copied() else { return };
            let Some(listener) = self.listeners.get(at) else {
                self.ready.pop_front();
                continue;
            };
            match listener.listener.accept() {
                Ok((socket, address)) => {
                    self.paused_until = None;
                    self.scarce = descriptors::is_reserved(socket.as_raw_fd());
                    // Round robin: a burst on one listener does not delay the others.
                    self.ready.rotate_left(1);
                    self.next = (self.next + 1) % listener.reactors.len();
                    let accepted = Accepted { socket, address: canonical(address), handler: listener.handler.clone() };
                    match self.next {
                        0 => own(accepted),
                        other => listener.reactors[other].send_connection(accepted),
                    }
                    if self.scarce {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.pop_front();
                }
                // "Linux accept() passes already-pending network errors on the new socket as an error code from accept()
                // … treat them like EAGAIN by retrying" (accept(2)).
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => return self.pause(now, &error),
            }
        }
    }

    fn pause(&mut self, now: Millis, error: &io::Error) {
        log::error!("cannot accept connections: side=internal: {error}; they stay queued until others end");
        self.paused_until = Some(now.after(PAUSE));
    }
}

fn accept_queued(listener: &ReactorListener, own: &mut impl FnMut(Accepted)) {
    for _ in 0..LONGEST_QUEUE {
        match listener.listener.accept() {
            Ok((socket, address)) => {
                own(Accepted { socket, address: canonical(address), handler: listener.handler.clone() });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(_) => break,
        }
    }
}

/// Whether an error of `accept` concerns one connection, so that the next one can be accepted at once.
pub(crate) fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    )
}
