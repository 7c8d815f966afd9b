//! The connection to an upstream, as bare as its peer allows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::driver::Transport;

/// A connection to an upstream.
#[derive(Debug)]
pub(super) enum Connection {
    /// Plain TCP without anything around it: Pingora's stream would bring buffers of 64 KiB.
    Tcp(TcpStream),
    /// What Pingora's connector made: TLS, or a peer with options of its own.
    Pingora(Stream),
}

impl Connection {
    /// The connection for a driver. Nothing may be buffered in it.
    ///
    /// # Errors
    /// When its descriptor cannot be duplicated, or taken from the runtime.
    pub(super) fn into_transport(self) -> io::Result<Transport> {
        match self {
            Self::Tcp(socket) => Ok(Transport::Tcp(socket.into_std()?)),
            Self::Pingora(stream) => Transport::bare(stream),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Pingora(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Pingora(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Pingora(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Pingora(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
