//! The transport of a client connection as Pingora's sessions need it, and how it is closed behind the last response.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::driver::with_read_buffer;

/// A client's transport.
#[derive(Debug)]
pub(crate) enum ClientTransport {
    /// Plain TCP.
    Tcp {
        /// The connection.
        socket: TcpStream,
        /// The address, as Pingora's sessions look it up.
        digest: Arc<SocketDigest>,
        /// Read from the socket already, and still to be read from here. In a box, since hardly any connection has some.
        received: Option<Box<Bytes>>,
    },
    /// TLS, and what another proxy's Pingora has accepted.
    Pingora(Stream),
}

impl ClientTransport {
    pub(crate) fn tcp(socket: TcpStream, address: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // The digest is not shared yet, so the value cannot be set already.
        let _ = digest.peer_addr.set(Some(address.into()));
        Self::Tcp { socket, digest: Arc::new(digest), received: None }
    }

    /// The same, with bytes that have been read from it in front of those that are still to come.
    pub(crate) fn with_received(self, received: Vec<u8>) -> Self {
        match self {
            Self::Tcp { socket, digest, .. } => {
                let received = (!received.is_empty()).then(|| Box::new(received.into()));
                Self::Tcp { socket, digest, received }
            }
            Self::Pingora(stream) => Self::Pingora(stream),
        }
    }
}

impl AsyncRead for ClientTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { received: Some(bytes), .. } if !bytes.is_empty() => {
                buffer.put_slice(&bytes.split_to(bytes.len().min(buffer.remaining())));
                Poll::Ready(Ok(()))
            }
            Self::Tcp { socket, .. } => Pin::new(socket).poll_read(cx, buffer),
            Self::Pingora(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp { socket, .. } => Pin::new(socket).poll_write(cx, bytes),
            Self::Pingora(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    // Without this, HTTP/2 writes the header and the payload of a larger frame separately.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp { socket, .. } => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Pingora(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp { socket, .. } => socket.is_write_vectored(),
            Self::Pingora(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { socket, .. } => Pin::new(socket).poll_flush(cx),
            Self::Pingora(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { socket, .. } => Pin::new(socket).poll_shutdown(cx),
            Self::Pingora(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Peek for ClientTransport {}

#[async_trait]
impl Shutdown for ClientTransport {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("close failed: side=downstream: {error}");
        }
    }
}

impl UniqueID for ClientTransport {
    fn id(&self) -> UniqueIDType {
        match self {
            Self::Tcp { socket, .. } => socket.as_raw_fd(),
            Self::Pingora(stream) => stream.id(),
        }
    }
}

impl Ssl for ClientTransport {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        match self {
            Self::Tcp { .. } => None,
            Self::Pingora(stream) => stream.get_ssl_digest(),
        }
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self {
            Self::Tcp { .. } => None,
            Self::Pingora(stream) => stream.selected_alpn_proto(),
        }
    }
}

impl GetTimingDigest for ClientTransport {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        match self {
            Self::Tcp { .. } => Vec::new(),
            Self::Pingora(stream) => stream.get_timing_digest(),
        }
    }
}

impl GetProxyDigest for ClientTransport {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        match self {
            Self::Tcp { .. } => None,
            Self::Pingora(stream) => stream.get_proxy_digest(),
        }
    }
}

impl GetSocketDigest for ClientTransport {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        match self {
            Self::Tcp { digest, .. } => Some(digest.clone()),
            Self::Pingora(stream) => stream.get_socket_digest(),
        }
    }
}

/// How long the last response on a connection may take to reach a client that is still sending (`lingering_timeout` in
/// nginx).
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Shuts the write side down, and discards what the client sends until it closes the connection, at most for [`LINGER`].
///
/// "If a server performs an immediate close of a TCP connection, there is a significant risk that the client will not be
/// able to read the last HTTP response" (RFC 9112 §9.6): bytes that arrive at a closed socket are answered with a reset,
/// which discards the response at the client.
pub(super) async fn linger(mut transport: impl AsyncRead + AsyncWrite + Unpin) {
    let until = Instant::now() + LINGER;
    if !matches!(timeout_at(until, transport.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let drain = poll_fn(|cx| {
        // Yields after some reads: a client may send as fast as it is read.
        for _ in 0..16 {
            let count = with_read_buffer(|input| {
                let mut buffer = ReadBuf::new(input);
                ready!(Pin::new(&mut transport).poll_read(cx, &mut buffer))?;
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            match ready!(count) {
                Ok(count) if count > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    let _ = timeout_at(until, drain).await;
}

/// Implements Pingora's connection traits for a wrapper of a client's transport, except for reading and writing.
macro_rules! delegate_digests {
    ($wrapper:ty) => {
        impl pingora::protocols::UniqueID for $wrapper {
            fn id(&self) -> pingora::protocols::UniqueIDType {
                self.transport().map_or(-1, pingora::protocols::UniqueID::id)
            }
        }

        impl pingora::protocols::Ssl for $wrapper {
            fn get_ssl_digest(&self) -> Option<std::sync::Arc<pingora::protocols::tls::SslDigest>> {
                self.transport()?.get_ssl_digest()
            }

            fn selected_alpn_proto(&self) -> Option<pingora::protocols::ALPN> {
                self.transport()?.selected_alpn_proto()
            }
        }

        impl pingora::protocols::GetTimingDigest for $wrapper {
            fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
                self.transport().map_or_else(Vec::new, pingora::protocols::GetTimingDigest::get_timing_digest)
            }
        }

        impl pingora::protocols::GetProxyDigest for $wrapper {
            fn get_proxy_digest(&self) -> Option<std::sync::Arc<pingora::protocols::raw_connect::ProxyDigest>> {
                self.transport()?.get_proxy_digest()
            }
        }

        impl pingora::protocols::GetSocketDigest for $wrapper {
            fn get_socket_digest(&self) -> Option<std::sync::Arc<pingora::protocols::SocketDigest>> {
                self.transport()?.get_socket_digest()
            }
        }

        impl pingora::protocols::Peek for $wrapper {}

        #[async_trait::async_trait]
        impl pingora::protocols::Shutdown for $wrapper {
            async fn shutdown(&mut self) {
                if let Err(error) = tokio::io::AsyncWriteExt::shutdown(self).await {
                    log::debug!("close failed: side=downstream: {error}");
                }
            }
        }
    };
}

pub(crate) use delegate_digests;
