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
    /// Does everything that can be done now. Called when a socket is ready, when the deadline has come, and after each
    /// [`Step::Upstream`]. `input` is to read into.
    fn drive(
        &mut self,
        client: &mut dyn Socket,
        upstream: Option<&mut dyn Socket>,
        now: Millis,
        input: &mut [u8],
    ) -> Step;

    /// When to call again at the latest.
    fn deadline(&self) -> Option<Millis>;

    /// Whether nothing has been requested yet, so that the connection can be closed without losing anything.
    fn is_idle(&self) -> bool;

    /// Takes the sockets after [`Step::HandOff`]. They are no longer registered with the reactor.
    fn hand_off(self: Box<Self>, client: TcpStream, upstream: Option<TcpStream>);
}

/// What a reactor does next with a pending connection.
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
    /// Hand the sockets to [`Pending::hand_off`].
    HandOff,
    /// Close both sockets.
    Close,
}
