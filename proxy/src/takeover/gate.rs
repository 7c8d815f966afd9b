//! A connection that lets Pingora's parser read a response head and not one byte more.
//!
//! Pingora's client session keeps what it reads past the head to itself. Under this gate there is nothing past it: each
//! read ends where a head ends, and what the connection gave beyond that stays here, to be taken out with the
//! connection. Reading on through the gate gives the rest, cut at blank lines, otherwise unchanged.
//!
//! The gate has the reading half only. The request is written beside it, because an upstream may answer before it has
//! taken the whole request.

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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf};

/// Bytes of one read from the connection.
const READ_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Gate {
    inner: ReadHalf<Stream>,
    held: Vec<u8>,
    end: HeadEnd,
}

impl Gate {
    pub(super) fn new(inner: ReadHalf<Stream>) -> Self {
        Self { inner, held: Vec::new(), end: HeadEnd::default() }
    }

    /// The reading half, and what was read of it past the last head.
    pub(super) fn into_parts(self) -> (ReadHalf<Stream>, Vec<u8>) {
        (self.inner, self.held)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

/// Finds the blank line that ends a head: LF, or CR LF, at the start of a line (RFC 9112 §2.2 lets a recipient take a
/// bare LF for a line end, and Pingora's parser does).
#[derive(Clone, Copy, Debug, Default)]
struct HeadEnd {
    at_line_start: bool,
}

impl HeadEnd {
    /// How many of `bytes` belong to the head under way: up to and with its end, or all of them.
    fn length(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.at_line_start => {
                    self.at_line_start = false;
                    return at + 1;
                }
                b'\n' => self.at_line_start = true,
                b'\r' if self.at_line_start => {}
                _ => self.at_line_start = false,
            }
        }
        bytes.len()
    }
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            std::task::ready!(self.poll_fill(cx))?;
        }
        let room = buffer.remaining().min(self.held.len());
        let mut end = self.end;
        let take = end.length(&self.held[..room]);
        self.end = end;
        buffer.put_slice(&self.held[..take]);
        self.held.drain(..take);
        Poll::Ready(Ok(()))
    }
}

/// Nothing is written through the gate.
impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Shutdown for Gate {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Gate {
    fn id(&self) -> UniqueIDType {
        -1
    }
}

impl Ssl for Gate {}

impl Peek for Gate {}

impl GetTimingDigest for Gate {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Gate {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Gate {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_blank_line_at_every_split() {
        for head in
            [&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[..], b"HTTP/1.1 200 OK\nA: b\n\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n"]
        {
            let wire = [head, b"data: x\n\n"].concat();
            for cut in 0..head.len() {
                let mut end = HeadEnd::default();
                assert_eq!(end.length(&wire[..cut]), cut);
                assert_eq!(cut + end.length(&wire[cut..]), head.len(), "cut at {cut}");
            }
        }
    }
}
