//! The connection to an upstream, a plain socket where possible.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::driver::{Socket, Transport, has_readable_bytes};
use crate::sys;

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

    /// Whether nothing has arrived on it, not even its end, so that an idle connection can be reused. What arrives on an
    /// idle connection could be taken for the next request's response.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(std::task::Waker::noop());
        // The first knows what is buffered in the process, the other what has arrived since the runtime last asked.
        Pin::new(&mut *self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
            && sys::is_silent(self.descriptor())
    }

    /// The descriptor of its socket; negative if it has none.
    pub(super) fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(socket) => socket.as_raw_fd(),
            Self::Pingora(stream) => stream.id(),
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use pingora::protocols::l4::stream::Stream as L4Stream;

    use super::*;

    /// Invariant: a kept connection on which anything has arrived is not reused. Mechanism: the runtime was asked, which
    /// knows what had arrived when it last asked the kernel. Symptom: bytes that a backend sends late are the response to
    /// the next request.
    #[tokio::test]
    async fn a_connection_on_which_bytes_have_arrived_is_not_quiet() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        for is_tcp in [true, false] {
            for closes in [true, false] {
                let socket =
                    TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
                let (mut peer, _) = listener.accept().expect("a connection");
                let watched = socket2::SockRef::from(&socket).try_clone().expect("a descriptor");
                let mut connection = match is_tcp {
                    true => UpstreamConnection::Tcp(socket),
                    false => UpstreamConnection::Pingora(Box::new(L4Stream::from(socket))),
                };
                assert!(connection.is_quiet());
                match closes {
                    true => drop(peer),
                    false => peer.write_all(b"HTTP/1.1 200 OK\r\n").expect("sent"),
                }
                // Without the runtime, which must not learn of it.
                watched.set_nonblocking(false).expect("a blocking socket");
                let _ = watched.peek(&mut [std::mem::MaybeUninit::uninit()]);
                watched.set_nonblocking(true).expect("a non-blocking socket");
                assert!(!connection.is_quiet(), "plain: {is_tcp}, closed: {closes}");
            }
        }
    }
}
