//! The body of a response on its way to the client, decoded and framed again, while the rest of the request goes to the
//! upstream.
//!
//! At most one read of a response is buffered for a client that is behind: 16 KiB, or 64 KiB after a large body has
//! flowed freely. The upstream is not read meanwhile. Behind the first reads, nothing is read for a client without TLS that
//! takes nothing.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::prelude::{Error, Result};
use tokio::io::AsyncReadExt;

use super::client::Client;
use super::connection::UpstreamConnection;
use super::exchange::WaitTimer;
use super::stall::StallTimer;
use super::upload::{Upload, WaitsFor};
use crate::failure::Failure;
use crate::stream::Timeouts;
use crate::wire::body::Body;
use crate::wire::chunked::Piece;
use crate::wire::trailers;

/// Size of one read from the upstream, in bytes, and so the most that is buffered for a client.
const READ_BYTES: usize = 16 * 1024;

/// The same while the client keeps up: fewer system calls for each megabyte.
const LARGE_READ_BYTES: usize = 64 * 1024;

/// Consecutive reads that fill their buffers, while the client keeps up, before reads become large.
const READS_TO_GROW: u32 = 16;

/// Reads of a response before the client's room is checked first.
const READS_BEFORE_CHECKS: u32 = 4;

/// Reads in one poll, before the task yields.
const READS_PER_POLL: u32 = 16;

/// A response that is being forwarded to the client, and the rest of its request to the upstream.
pub(super) struct Page<'s, 't> {
    pub(super) client: Client<'s>,
    connection: UpstreamConnection,
    upload: Upload,
    body: Body,
    /// Whether bytes followed the body.
    excess: bool,
    /// Body bytes not yet written to the client.
    pending: Bytes,
    /// Consecutive reads that filled their buffers while the client kept up.
    full_reads: u32,
    /// Reads from the upstream.
    reads: u32,
    /// Whether written bytes are still queued.
    behind: bool,
    /// The trailer section as it was received.
    trailers: Vec<u8>,
    takes_trailers: bool,
    phase: Phase,
    /// Why the response ends broken.
    broken: Option<Box<Error>>,
    /// Counts reads and writes that made progress.
    progress: u64,
    /// Progress and what was waited for when the timer was restarted.
    seen: (u64, u64, Option<Waits>),
    timer: WaitTimer,
    stall: StallTimer,
    timeouts: &'t Timeouts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Body,
    /// The end of the body is being written.
    Ending,
    /// The last chunk with trailers is to be written.
    Trailers,
    /// The response has been written; the upstream has not read the whole request.
    Uploading,
    /// The received bytes are being written, then the response ends broken.
    Breaking,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// For the upstream to send or to read more.
    Upstream,
    /// For the client to read the response.
    Client,
    /// For the client to send more of its request.
    Request,
}

/// What is left of a response that has been forwarded.
pub(super) struct PageEnd {
    pub(super) connection: UpstreamConnection,
    pub(super) upload: Upload,
    /// Whether bytes followed the body.
    pub(super) excess: bool,
    /// The trailer section, if the last chunk is to be written with it.
    pub(super) trailers: Option<Vec<u8>>,
}

impl<'s, 't> Page<'s, 't> {
    /// `body` is the upstream's framing, and whether there is a body.
    pub(super) fn new(
        client: Client<'s>,
        connection: UpstreamConnection,
        upload: Upload,
        body: (Body, bool),
        takes_trailers: bool,
        timeouts: &'t Timeouts,
    ) -> Self {
        let (body, has_body) = body;
        Self {
            client,
            connection,
            upload,
            body,
            excess: false,
            pending: Bytes::new(),
            full_reads: 0,
            reads: 0,
            behind: false,
            trailers: Vec::new(),
            takes_trailers,
            phase: if has_body { Phase::Body } else { Phase::Ending },
            broken: None,
            progress: 0,
            seen: (0, 0, None),
            timer: WaitTimer::new(),
            stall: StallTimer::new(),
            timeouts,
        }
    }

    /// Takes the bytes that came with the head.
    pub(super) fn begin(&mut self, leftover: Bytes) {
        match self.phase {
            Phase::Body => self.decode(leftover),
            _ => self.excess = !leftover.is_empty(),
        }
    }

    /// What is left once it is over.
    pub(super) fn into_end(self) -> PageEnd {
        let Self { connection, upload, excess, trailers, phase, .. } = self;
        PageEnd { connection, upload, excess, trailers: (phase == Phase::Trailers).then_some(trailers) }
    }

    /// Ready once the response has been written, up to trailers over HTTP/1, and the upstream has all of the request that
    /// it reads.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.send_request(cx)?;
        let waits = match self.respond(cx) {
            Poll::Ready(done) => return Poll::Ready(done),
            Poll::Pending => self.waits(),
        };
        // What the client sends does not excuse it from reading.
        let steps = if waits == Waits::Client { 0 } else { self.upload.steps() };
        let seen = (self.progress, steps, Some(waits));
        if self.seen != seen {
            self.seen = seen;
            self.timer.restart();
            if waits == Waits::Client {
                self.stall.restart(self.client.acknowledged());
            }
        }
        let limit = match waits {
            Waits::Upstream => ready!(self.timer.poll(cx, self.timeouts.read)),
            Waits::Client => ready!(self.stall.poll(cx, self.timeouts.write, || self.client.acknowledged())),
            Waits::Request => ready!(self.timer.poll(cx, self.upload.silence_limit())),
        };
        match (waits, self.phase) {
            (_, Phase::Uploading) => Poll::Ready(Ok(())),
            (Waits::Client, _) => {
                self.client.reset();
                let what = format!("the client read nothing within timeouts.write ({limit:?})");
                Poll::Ready(Err(Error::explain(ErrorType::WriteTimedout, what).into_down()))
            }
            (Waits::Request, _) => {
                let what = format!("no byte of the request body arrived within client.timeouts.body ({limit:?})");
                self.break_off(Error::explain(ErrorType::ReadTimedout, what).into_down());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Waits::Upstream, _) => {
                let what = format!("the upstream was silent for timeouts.read ({limit:?})");
                self.break_off(Error::explain(ErrorType::ReadTimedout, what).into_up());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn waits(&self) -> Waits {
        match self.phase {
            Phase::Body if !self.pending.is_empty() || self.behind => Waits::Client,
            Phase::Body | Phase::Uploading if self.upload.waits_for() == WaitsFor::Client => Waits::Request,
            Phase::Body | Phase::Uploading => Waits::Upstream,
            _ => Waits::Client,
        }
    }

    /// Forwards the request. Reads and discards what the upstream no longer reads: left unread, it could keep the
    /// client from reading its response.
    fn send_request(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let response_is_over = matches!(self.phase, Phase::Uploading | Phase::Done);
        match self.upload.poll(cx, &mut self.client, &mut self.connection) {
            Ok(()) => {}
            Err(Failure::Broken { .. }) => self.upload.abandon(),
            Err(_) if response_is_over => self.upload.abandon(),
            Err(failure) => return Err(request_error(failure)),
        }
        if response_is_over {
            // The client may close now; what it has sent still goes to the upstream.
            return Ok(());
        }
        if !self.upload.is_over() {
            // While the upstream does not read, nothing is read from the client either.
            return if self.upload.waits_for() == WaitsFor::Upstream { self.check_client(cx) } else { Ok(()) };
        }
        if !self.upload.is_done() && !self.drop_request(cx)? {
            return Ok(());
        }
        self.check_client(cx)
    }

    /// Fails once the client has closed the connection.
    fn check_client(&mut self, cx: &mut Context<'_>) -> Result<()> {
        match self.client.poll_closed(cx) {
            Poll::Ready(error) => Err(error.into_down()),
            Poll::Pending => Ok(()),
        }
    }

    /// Reads what is left of the request and drops it. Returns whether nothing is left.
    fn drop_request(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        for _ in 0..READS_PER_POLL {
            match self.client.poll_body(cx) {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(Ok(None)) => return Ok(true),
                Poll::Ready(Err(error)) => return Err(error.into_down()),
                Poll::Pending => return Ok(false),
            }
        }
        // There may be more; the response is polled first.
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Forwards the response. Ready once all of it has been written, and the upstream has all of the request that it
    /// reads.
    fn respond(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut reads = 0;
        loop {
            if !self.pending.is_empty() {
                if self.client.poll_write(cx, &mut self.pending)?.is_pending() {
                    self.full_reads = 0;
                    return Poll::Pending;
                }
                self.progress += 1;
                continue;
            }
            match self.phase {
                Phase::Body if reads == READS_PER_POLL => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Phase::Body => {
                    // Only one read is buffered: the last one has to be written first.
                    self.behind = true;
                    if self.client.poll_flush(cx)?.is_pending() || self.poll_room(cx).is_pending() {
                        self.full_reads = 0;
                        return Poll::Pending;
                    }
                    self.behind = false;
                    reads += 1;
                    ready!(self.read(cx));
                    self.progress += 1;
                }
                Phase::Ending if self.takes_trailers && !self.trailers.is_empty() && !self.client.is_http2() => {
                    ready!(self.client.poll_flush(cx))?;
                    self.phase = Phase::Trailers;
                }
                Phase::Ending => {
                    let fields = trailers::fields(&self.trailers).filter(|_| self.takes_trailers);
                    ready!(self.client.poll_end(cx, fields))?;
                    self.phase = Phase::Uploading;
                }
                Phase::Uploading if !self.upload.is_over() => return Poll::Pending,
                Phase::Uploading => self.phase = Phase::Done,
                Phase::Breaking => {
                    ready!(self.client.poll_abort(cx));
                    let error = self.broken.take();
                    return Poll::Ready(error.map_or(Ok(()), Err));
                }
                Phase::Trailers | Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Ready once the client takes more: what is not read yet takes no memory. The kernel has room for the first reads of
    /// every response.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reads < READS_BEFORE_CHECKS { Poll::Ready(()) } else { self.client.poll_writable(cx) }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = BytesMut::with_capacity(self.read_bytes());
        match ready!(pin!(self.connection.read_buf(&mut buffer)).poll(cx)) {
            Ok(count @ 1..) => {
                self.reads = self.reads.saturating_add(1);
                self.full_reads = if count < READ_BYTES { 0 } else { self.full_reads.saturating_add(1) };
                self.decode(buffer.freeze());
            }
            Ok(_) if self.body.may_end_here() => {
                // What a module such as compression still holds back.
                self.pending = self.client.filter_body(Bytes::new(), true);
                self.phase = Phase::Ending;
            }
            Ok(_) => {
                let what = "the upstream closed its connection within the response";
                self.break_off(Error::explain(ErrorType::ConnectionClosed, what).into_up());
            }
            Err(error) => {
                self.break_off(Error::because(ErrorType::ReadError, "reading the response", error).into_up());
            }
        }
        Poll::Ready(())
    }

    /// Decodes the upstream's framing.
    fn decode(&mut self, bytes: Bytes) {
        let mut input = &bytes[..];
        // Without framing to decode, the bytes are forwarded without a copy.
        let framed = matches!(self.body, Body::Chunked(_));
        let mut data = Vec::with_capacity(if framed { input.len() } else { 0 });
        let mut whole = Bytes::new();
        loop {
            match self.body.next(&mut input) {
                Ok(Some(Piece::Data(piece))) if framed => data.extend_from_slice(piece),
                Ok(Some(Piece::Data(piece))) => whole = bytes.slice_ref(piece),
                Ok(Some(Piece::Trailer(line))) => self.trailers.extend_from_slice(line),
                Ok(Some(Piece::End)) => {
                    self.phase = Phase::Ending;
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    let what = "the upstream's chunked framing is broken";
                    self.break_off(Error::because(ErrorType::ReadError, what, error).into_up());
                    break;
                }
            }
        }
        if self.body.is_complete() && self.phase == Phase::Body {
            self.phase = Phase::Ending;
        }
        self.excess |= self.phase == Phase::Ending && !input.is_empty();
        let data = if framed { data.into() } else { whole };
        self.pending = self.client.filter_body(data, self.phase == Phase::Ending);
    }

    fn read_bytes(&self) -> usize {
        if self.full_reads < READS_TO_GROW { READ_BYTES } else { LARGE_READ_BYTES }
    }

    fn break_off(&mut self, error: Box<Error>) {
        self.broken = Some(error);
        self.phase = Phase::Breaking;
    }
}

/// The error of a request that failed after its response had begun.
fn request_error(failure: Failure) -> Box<Error> {
    match failure {
        Failure::BadRequest { source } | Failure::RequestTimeout { source } | Failure::ClientGone { source } => {
            source.into_down()
        }
        other => Error::because(ErrorType::InternalError, "sending the request", other),
    }
}
