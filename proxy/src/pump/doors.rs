//! Listeners that a reactor accepts from: what they accept is a reactor's from its first byte on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::candidate::Reception;
use super::reactors::Handle;
use crate::stream::Millis;

/// Connections accepted before streams get their turn.
const ACCEPTS_PER_ROUND: usize = 64;

/// More than a listener's queue holds.
const LONGEST_QUEUE: usize = 1 << 16;

/// How long nobody is let in once the system has run out of something: descriptors, mostly.
const REST: Duration = Duration::from_millis(100);

/// How long the log has to wait before it is told again that nobody is let in.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// A listener on its way to the reactor that accepts for all.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) reception: Arc<dyn Reception>,
    /// Every reactor, the accepting one first.
    pub(super) reactors: Arc<[Handle]>,
}

/// A connection that has been accepted, on its way to the reactor whose turn it is.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) reception: Arc<dyn Reception>,
}

/// The listeners of one reactor.
#[derive(Default)]
pub(super) struct Doors {
    doors: Vec<Door>,
    turn: usize,
    /// Doors where somebody may be waiting, in the order of their turns.
    knocked: VecDeque<usize>,
    /// Nobody is let in before this.
    resting: Option<Millis>,
    /// When the log was told last.
    complained: Option<Millis>,
}

impl Doors {
    /// The tokens of doors count down from this one.
    const FIRST: usize = usize::MAX - 16;

    /// Whether a token is a door's; no table is as large as that.
    pub(super) fn is_door(token: Token) -> bool {
        token.0 <= Self::FIRST && token.0 > usize::MAX / 2
    }

    /// Listens at one more.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(super) fn add(&mut self, mut door: Door, registry: &Registry) -> io::Result<()> {
        registry.register(&mut door.listener, Token(Self::FIRST - self.doors.len()), Interest::READABLE)?;
        self.knocked.push_back(self.doors.len());
        self.doors.push(door);
        Ok(())
    }

    /// Somebody is at this door.
    pub(super) fn knock(&mut self, token: Token) {
        let door = Self::FIRST - token.0;
        if !self.knocked.contains(&door) {
            self.knocked.push_back(door);
        }
    }

    /// Lets in who has come so far, and nobody from here on: what waits when a listener closes is reset.
    pub(super) fn close(&mut self, mut own: impl FnMut(Client)) {
        for door in std::mem::take(self).doors {
            for _ in 0..LONGEST_QUEUE {
                let Ok((socket, address)) = door.listener.accept() else { break };
                own(Client { socket, address, reception: door.reception.clone() });
            }
        }
    }

    /// When somebody may be waiting to be let in; `None` for nobody.
    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        (!self.knocked.is_empty()).then(|| self.resting.unwrap_or(now))
    }

    /// Lets in whoever waits, a bounded number of them. Gives those that are this reactor's own to `own`, the others to
    /// the reactors whose turn it is.
    pub(super) fn accept(&mut self, now: Millis, mut own: impl FnMut(Client)) {
        if self.due(now).is_none_or(|due| due > now) {
            return;
        }
        for _ in 0..ACCEPTS_PER_ROUND {
            let Some(at) = self.knocked.front().copied() else { return };
            let Some(door) = self.doors.get(at) else {
                self.knocked.pop_front();
                continue;
            };
            match door.listener.accept() {
                Ok((socket, address)) => {
                    self.resting = None;
                    // A crowd at one door does not keep those at another waiting.
                    self.knocked.rotate_left(1);
                    self.turn = (self.turn + 1) % door.reactors.len();
                    let client = Client { socket, address, reception: door.reception.clone() };
                    match self.turn {
                        0 => own(client),
                        other => door.reactors[other].send_client(client),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.knocked.pop_front();
                }
                // "Linux accept() passes already-pending network errors on the new socket as an error code from accept()
                // … treat them like EAGAIN by retrying" (accept(2)).
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => return self.rest(now, &error),
            }
        }
    }

    fn rest(&mut self, now: Millis, error: &io::Error) {
        if self.complained.is_none_or(|at| at.after(COMPLAINT_PAUSE) <= now) {
            self.complained = Some(now);
            log::error!(
                "side=internal: connections wait, none can be accepted: {error}; they are let in as others end"
            );
        }
        self.resting = Some(now.after(REST));
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
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
