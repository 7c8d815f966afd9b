//! The connection to an upstream, as bare as its peer allows.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::pump::Transport;

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

/// A connection with bytes put back in front of what it gives: an answer that turned out to be no event stream is read
/// once more from its head by Pingora's own session.
#[derive(Debug)]
pub(super) struct Rewound {
    held: Vec<u8>,
    given: usize,
    inner: Connection,
}

impl Rewound {
    pub(super) fn new(held: Vec<u8>, inner: Connection) -> Self {
        Self { held, given: 0, inner }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given == self.held.len() {
            self.held = Vec::new();
            self.given = 0;
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let take = buffer.remaining().min(self.held.len() - self.given);
        buffer.put_slice(&self.held[self.given..self.given + take]);
        self.given += take;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Rewound {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Rewound {
    fn id(&self) -> UniqueIDType {
        -1
    }
}

impl Ssl for Rewound {}

impl Peek for Rewound {}

impl GetTimingDigest for Rewound {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Rewound {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Rewound {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
