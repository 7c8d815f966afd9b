//! A connection with bytes put back in front of what it gives, for Pingora's sessions to read once more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A connection whose first bytes have been read already.
#[derive(Debug)]
pub(crate) struct Rewind<T> {
    held: Vec<u8>,
    given: usize,
    inner: T,
}

impl<T> Rewind<T> {
    /// Gives `held` first, then what `inner` has. It has no descriptor that anybody may ask for.
    pub(crate) fn new(held: Vec<u8>, inner: T) -> Self {
        Self { held, given: 0, inner }
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
        -1
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
        None
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
