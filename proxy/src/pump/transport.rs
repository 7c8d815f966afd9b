//! The two ends of a stream once HTTP is done with them: as bare as the connection allows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use socket2::SockRef;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::sys;

/// Bytes that the kernel may hold unsent for one client before the stream counts as blocked. What has been sent and
/// not yet acknowledged comes on top, and is bounded by the client's receive window.
const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;

/// A connection that bytes are read from or written to.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP, without the buffers and bookkeeping it had while HTTP was spoken on it.
    Tcp(TcpStream),
    /// Anything else, TLS above all, as it is.
    Other(Stream),
}

impl Transport {
    /// Takes a connection over from HTTP. What HTTP has buffered of it is lost: the caller has to know there is nothing.
    ///
    /// # Errors
    /// When a plain connection's descriptor cannot be duplicated: the descriptor limit is reached.
    pub fn bare(stream: Stream) -> io::Result<Self> {
        if !stream.as_any().is::<L4Stream>() || stream.get_socket_digest().is_none() {
            return Ok(Self::Other(stream));
        }
        let duplicate = sys::duplicate(stream.id())?;
        // Its registration with the reactor goes with the original; the duplicate gets one of its own.
        drop(stream);
        let socket = socket2::Socket::from(duplicate);
        if socket.domain()? == socket2::Domain::UNIX {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a stream over a unix socket cannot be taken over"));
        }
        Ok(Self::Tcp(TcpStream::from_std(socket.into())?))
    }

    /// Makes the kernel tell soon when the client stops reading: little may wait unsent, and data that is not
    /// acknowledged for `limit`, a closed receive window included, fails the connection with `ETIMEDOUT`. A write
    /// timeout alone would not see it: at a small event a second the kernel's buffers take hours to fill.
    pub fn bound_send_queue(&self, limit: Option<Duration>) {
        let apply = |socket: SockRef<'_>| {
            // Best effort: what a kernel lacks costs memory or promptness, not correctness.
            let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES);
            let _ = socket.set_tcp_user_timeout(limit);
        };
        match self {
            Self::Tcp(socket) => apply(SockRef::from(socket)),
            Self::Other(stream) => sys::with_socket(stream.id(), apply),
        }
    }

    /// Makes closing this connection tell the peer that something went wrong: it is reset instead of ended.
    pub(super) fn reset_on_close(&self) {
        let apply = |socket: SockRef<'_>| {
            let _ = socket.set_linger(Some(Duration::ZERO));
        };
        match self {
            Self::Tcp(socket) => apply(SockRef::from(socket)),
            Self::Other(stream) => sys::with_socket(stream.id(), apply),
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Other(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Writes, and on a buffering transport flushes: nothing is left behind for a later write to push out.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
