//! The connection to an upstream, a plain socket where possible.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::driver::{Socket, Transport, has_readable_bytes};

/// A connection to an upstream.
#[derive(Debug)]
pub(super) enum UpstreamConnection {
    /// A plain TCP socket: Pingora's stream would add buffers of 64 KiB.
    Tcp(TcpStream),
    /// A stream of Pingora's connector: TLS, or a peer with options.
    Pingora(Stream),
}

impl UpstreamConnection {
    /// Converts it for a driver. Nothing may be buffered in it.
    ///
    /// # Errors
    /// When its descriptor cannot be duplicated, or taken from the runtime.
    pub(super) fn into_transport(self) -> io::Result<Transport> {
        match self {
            Self::Tcp(socket) => Ok(Transport::Tcp(socket.into_std()?)),
            Self::Pingora(stream) => Transport::bare(stream),
        }
    }

    /// Whether nothing has arrived on it, not even its end, so that an idle connection can be reused.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl AsyncRead for UpstreamConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Pingora(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for UpstreamConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Pingora(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Pingora(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(_))
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

/// Adapts an upstream connection to non-blocking calls; registers the waker when an operation would block.
pub(super) struct UpstreamSocket<'a, 'c> {
    pub(super) connection: &'a mut UpstreamConnection,
    pub(super) cx: &'a mut Context<'c>,
}

impl Socket for UpstreamSocket<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.connection).poll_read(self.cx, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn has_unread(&mut self) -> bool {
        match self.connection {
            UpstreamConnection::Tcp(socket) => has_readable_bytes(SockRef::from(&*socket)),
            UpstreamConnection::Pingora(_) => true,
        }
    }

    // A stream writes to its client only; its request is written by the upload.
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reset_on_close(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}
