//! The transport of an HTTP/2 connection, with what has been read of it put back in front.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::driver::{ClientTransport, delegate_digests};

/// A client's connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Http2Transport {
    transport: ClientTransport,
    /// Read already, and not given out.
    held: Vec<u8>,
}

impl Http2Transport {
    pub(super) fn new(held: Vec<u8>, transport: ClientTransport) -> Self {
        Self { transport, held }
    }

    fn transport(&self) -> Option<&ClientTransport> {
        Some(&self.transport)
    }
}

impl AsyncRead for Http2Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(this.held.len());
        buffer.put_slice(&this.held[..count]);
        this.held.drain(..count);
        if this.held.is_empty() {
            this.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    // HTTP/2 would write the head and the payload of a larger frame one after the other.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

delegate_digests!(Http2Transport);
