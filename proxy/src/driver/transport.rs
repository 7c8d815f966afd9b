//! The two connections of a stream, without the HTTP session around them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use socket2::{SockRef, TcpKeepalive};

use super::socket::reset;
use crate::stream::KeepAlive;
use crate::sys;

/// Bytes that the kernel may hold unsent for one client before the stream counts as blocked. What has been sent and
/// not yet acknowledged comes on top, and is bounded by the client's receive window.
const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;

/// The same for a page, which is written as fast as the client reads: fewer wakeups for each megabyte.
const PAGE_NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

/// A connection to a client or an upstream.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP, non-blocking, without the session's buffers.
    Tcp(TcpStream),
    /// Any other stream, mostly TLS.
    Other(Stream),
    /// The response body of one HTTP/2 stream; its connection belongs to many.
    H2(SendStream<Bytes>),
}

impl Transport {
    /// Takes a connection out of its HTTP session. Bytes buffered in the session are lost: the caller must know that
    /// there are none.
    ///
    /// # Errors
    /// When a plain connection's descriptor cannot be duplicated: the descriptor limit is reached.
    pub fn bare(stream: Stream) -> io::Result<Self> {
        // A virtual connection has no descriptor.
        if !stream.as_any().is::<L4Stream>() || stream.id() < 0 {
            return Ok(Self::Other(stream));
        }
        let socket = socket2::Socket::from(sys::duplicate(stream.id())?);
        if socket.domain()? == socket2::Domain::UNIX {
            return Ok(Self::Other(stream));
        }
        // Its registration with the runtime goes with the original.
        drop(stream);
        Ok(Self::Tcp(socket.into()))
    }

    pub(super) fn bound_send_queue(&self, limit: Option<Duration>) {
        match self {
            Self::Tcp(socket) => bound_queue_of(SockRef::from(socket), limit),
            Self::Other(stream) => bound_send_queue(stream, limit),
            // The connection's send queue is shared; what one stream may have in it is bounded by the HTTP/2 settings.
            Self::H2(_) => {}
        }
    }
}

/// Makes the kernel report soon when the client stops reading: little may wait unsent, and data that is not
/// acknowledged for `limit`, a closed receive window included, fails the connection with `ETIMEDOUT`. A write timeout
/// alone would not notice: at a small event a second the kernel's buffers take hours to fill.
pub(crate) fn bound_send_queue(stream: &Stream, limit: Option<Duration>) {
    sys::with_socket(stream.id(), |socket| bound_queue_of(socket, limit));
}

/// The same for a client of a page.
pub(crate) fn bound_page_queue(stream: &Stream, limit: Option<Duration>) {
    sys::with_socket(stream.id(), |socket| {
        let _ = socket.set_tcp_notsent_lowat(PAGE_NOTSENT_LOWAT_BYTES);
        let _ = socket.set_tcp_user_timeout(limit);
    });
}

/// Makes closing a connection reset it, so that the peer sees an incomplete response.
pub(crate) fn reset_stream(stream: &Stream) {
    sys::with_socket(stream.id(), reset);
}

pub(super) fn bound_queue_of(socket: SockRef<'_>, limit: Option<Duration>) {
    // Best effort: a kernel without the option costs memory or promptness, not correctness.
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES);
    let _ = socket.set_tcp_user_timeout(limit);
}

/// A client's address in canonical form: a listener on `[::]` reports IPv4 clients as `::ffff:192.0.2.7`.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Enables TCP keep-alive; accepted connections inherit it from their listener.
pub(crate) fn keep_alive(socket: SockRef<'_>, keep_alive: KeepAlive) -> io::Result<()> {
    let KeepAlive { idle, interval, count } = keep_alive;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count))
}
