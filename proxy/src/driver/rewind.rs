//! A connection with bytes put back in front of what it gives, for Pingora's sessions to read once more.

use std::any::Any;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Rewind<T> {
    held: Vec<u8>,
    given: usize,
    inner: T,
    descriptor: RawFd,
    digest: Option<Arc<SocketDigest>>,
    note: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<T> Rewind<T> {
    /// Gives `held` first, then what `inner` has. It has no descriptor that anybody may ask for.
    #[cfg(test)]
    pub(crate) fn new(held: Vec<u8>, inner: T) -> Self {
        Self { held, given: 0, inner, descriptor: -1, digest: None, note: Mutex::default() }
    }

    /// The connection alone. What was put back and has not been read is lost.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }
}

impl Rewind<TcpStream> {
    /// The same of a client's connection, which Pingora wants to know the address of. `note` is for whoever serves the
    /// first request on it.
    pub(crate) fn client(
        held: Vec<u8>,
        inner: TcpStream,
        address: SocketAddr,
        note: Option<Box<dyn Any + Send>>,
    ) -> Self {
        let descriptor = inner.as_raw_fd();
        let digest = SocketDigest::from_raw_fd(descriptor);
        // Nobody else has the digest yet: it cannot be set already.
        let _ = digest.peer_addr.set(Some(address.into()));
        Self { held, given: 0, inner, descriptor, digest: Some(Arc::new(digest)), note: Mutex::new(note) }
    }

    /// What came with the connection for whoever serves its first request; once.
    pub(crate) fn take_note(&self) -> Option<Box<dyn Any + Send>> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given == self.held.len() {
            (self.held, self.given) = (Vec::new(), 0);
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let take = buffer.remaining().min(self.held.len() - self.given);
        buffer.put_slice(&self.held[self.given..self.given + take]);
        self.given += take;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    // HTTP/2 would write the head and the payload of a larger frame one after the other.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl<T: AsyncWrite + Unpin + Send> Shutdown for Rewind<T> {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(&mut self.inner).await {
            log::debug!("closing a connection failed: {error}");
        }
    }
}

#[async_trait]
impl<T: AsyncRead + Unpin + Send> Peek for Rewind<T> {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let missing = buffer.len().saturating_sub(self.held.len() - self.given);
        if missing > 0 {
            let mut more = vec![0; missing];
            self.inner.read_exact(&mut more).await?;
            self.held.extend_from_slice(&more);
        }
        buffer.copy_from_slice(&self.held[self.given..self.given + buffer.len()]);
        Ok(true)
    }
}

impl<T> UniqueID for Rewind<T> {
    fn id(&self) -> UniqueIDType {
        self.descriptor
    }
}

impl<T> Ssl for Rewind<T> {}

impl<T> GetTimingDigest for Rewind<T> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<T> GetProxyDigest for Rewind<T> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<T> GetSocketDigest for Rewind<T> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.digest.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_back_comes_first_and_peeking_takes_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"def").await.expect("room");
        drop(near);
        let mut rewound = Rewind::new(b"abc".to_vec(), far);
        let mut peeked = [0; 5];
        assert!(rewound.try_peek(&mut peeked).await.expect("enough"));
        assert_eq!(&peeked, b"abcde");
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.expect("an end");
        assert_eq!(all, b"abcdef");
    }
}
