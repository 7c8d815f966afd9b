//! The transport of an HTTP/2 connection: returns the bytes that were read before, and tracks what the client sends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::takeover::{ClientTransport, delegate_digests};
use crate::wire::frames::{FrameWatch, Unfinished};

/// The transport of an HTTP/2 client.
#[derive(Debug)]
pub(super) struct Http2Transport {
    transport: ClientTransport,
    /// Bytes that were read before and not yet returned.
    received: Vec<u8>,
    frames: FrameWatch,
    activity: Arc<Activity>,
}

/// The client's activity, shared with the task of its connection. Times are in milliseconds since the connection began.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// When it last sent something.
    received: AtomicU64,
    /// Since when something is unfinished, and what.
    unfinished_since: AtomicU64,
    unfinished: AtomicU8,
    over_budget: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            received: AtomicU64::new(0),
            unfinished_since: AtomicU64::new(0),
            unfinished: AtomicU8::new(0),
            over_budget: AtomicBool::new(false),
        })
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the client last sent something.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// What the client has begun and not completed, and since when; for data, since its last bytes.
    pub(super) fn unfinished(&self) -> Option<(Unfinished, u64)> {
        let what = match self.unfinished.load(Relaxed) {
            0 => return None,
            1 => Unfinished::Head,
            _ => Unfinished::Data,
        };
        Some((what, self.unfinished_since.load(Relaxed)))
    }

    /// Whether the client has exceeded its budget of frames. Nothing more is read from it.
    pub(super) fn is_over_budget(&self) -> bool {
        self.over_budget.load(Relaxed)
    }

    fn record(&self, unfinished: Option<(Unfinished, u64)>, now: u64) {
        self.received.store(now, Relaxed);
        let (what, since) = match unfinished {
            None => (0, now),
            Some((Unfinished::Head, since)) => (1, since),
            Some((Unfinished::Data, since)) => (2, since),
        };
        self.unfinished_since.store(since, Relaxed);
        self.unfinished.store(what, Relaxed);
    }
}

impl Http2Transport {
    pub(super) fn new(received: Vec<u8>, transport: ClientTransport, activity: Arc<Activity>) -> Self {
        Self { transport, received, frames: FrameWatch::new(activity.now()), activity }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(self.received.len());
        buffer.put_slice(&self.received[..count]);
        self.received.drain(..count);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn transport(&self) -> Option<&ClientTransport> {
        Some(&self.transport)
    }
}

impl AsyncRead for Http2Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_over_budget() {
            return Poll::Pending;
        }
        let start = buffer.filled().len();
        ready!(this.poll_more(cx, buffer))?;
        let now = this.activity.now();
        let within_budget = this.frames.received(&buffer.filled()[start..], now);
        this.activity.record(this.frames.unfinished(), now);
        if !within_budget {
            this.activity.over_budget.store(true, Relaxed);
            // Wakes the connection's task, the caller, to check `over_budget`.
            buffer.set_filled(start);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.transport).poll_write(cx, bytes))?;
        this.frames.sent(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    // Without this, HTTP/2 writes the header and the payload of a larger frame separately.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.transport).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let here = left.min(slice.len());
            this.frames.sent(&slice[..here]);
            left -= here;
        }
        Poll::Ready(Ok(count))
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
