//! What a reactor calls for a connection until it is a stream or is handed off.
//!
//! The reactor owns the sockets and knows when they are ready. The protocol spoken before a stream begins is up to the
//! implementation of these traits.

use std::net::{SocketAddr, TcpStream};

use crate::driver::socket::Socket;
use crate::driver::start::Start;
use crate::stream::Millis;

/// Handles the connections of a listener.
pub(crate) trait ConnectionHandler: Send + Sync {
    /// A connection has been accepted.
    fn connected(&self, client: SocketAddr, now: Millis) -> Box<dyn Pending>;
}

/// A connection that may become a stream.
pub(crate) trait Pending: Send {
    /// Makes all progress that is possible now. Called when a socket is ready, when the deadline has expired, and after
    /// each [`Step::Upstream`]. `input` is a read buffer.
    fn drive(
        &mut self,
        client: &mut dyn Socket,
        upstream: Option<&mut dyn Socket>,
        now: Millis,
        input: &mut [u8],
    ) -> Step;

    /// When to call [`Pending::drive`] again at the latest.
    fn deadline(&self) -> Option<Millis>;

    /// Whether nothing has been requested yet, so that the connection can be closed without losing anything.
    fn is_idle(&self) -> bool;

    /// Takes the sockets after [`Step::HandOff`]. They are no longer registered with the reactor.
    fn hand_off(self: Box<Self>, client: TcpStream, upstream: Option<TcpStream>);
}

/// What a reactor does next with a pending connection.
pub(crate) enum Step {
    /// Call again when a socket is ready or the deadline has expired.
    Wait,
    /// Call again soon: the connection yielded to others with work left. Not allowed once the deadline has expired.
    Again,
    /// Register this non-blocking socket as the upstream's, in place of any other.
    Upstream {
        /// Connected, or connecting.
        socket: TcpStream,
        /// Whether to call again when it becomes writable.
        writable: bool,
    },
    /// The connection has become a stream.
    Stream(Box<Start>),
    /// Hand the sockets to [`Pending::hand_off`].
    HandOff,
    /// Close both sockets.
    Close,
}
