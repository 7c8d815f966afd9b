//! A connection that a reactor looks after until it is a stream, or no business of the reactor's.
//!
//! The reactor owns the sockets and knows when they are ready; what is said on them before a stream begins, it leaves to
//! whoever implements these.

use std::net::{SocketAddr, TcpStream};

use super::Start;
use super::socket::Socket;
use crate::stream::Millis;

/// Meets the clients that connect to a listener.
pub(crate) trait Reception: Send + Sync {
    /// Someone has connected.
    fn meet(&self, client: SocketAddr, now: Millis) -> Box<dyn Candidate>;
}

/// What may become a stream.
pub(crate) trait Candidate: Send {
    /// Does everything that can be done now. Called when a socket is ready, when the deadline has come, and after each
    /// [`Step::Upstream`]. `input` is to read into.
    fn turn(
        &mut self,
        client: &mut dyn Socket,
        upstream: Option<&mut dyn Socket>,
        now: Millis,
        input: &mut [u8],
    ) -> Step;

    /// When to call again at the latest.
    fn deadline(&self) -> Option<Millis>;

    /// Whether nothing has been asked for yet, so that nobody misses anything when the connection is closed.
    fn is_idle(&self) -> bool;

    /// Takes the sockets, after [`Step::Leave`]. The reactor does not wait for them any more.
    fn leave(self: Box<Self>, client: TcpStream, upstream: Option<TcpStream>);
}

/// What a reactor does next with a candidate.
pub(crate) enum Step {
    /// Come back when a socket is ready or the deadline has come.
    Wait,
    /// Come back soon: there may be more to do now, but others wait too. No deadline may have come.
    Again,
    /// Take this for the upstream's socket, non-blocking, in place of any other.
    Upstream {
        /// Connected, or on the way to it.
        socket: TcpStream,
        /// Whether to come back when it can be written to.
        writable: bool,
    },
    /// It is a stream from here on.
    Stream(Box<Start>),
    /// It goes on elsewhere.
    Leave,
    /// It is over.
    Gone,
}
