//! Forwards a response other than an event stream to the client, decoding and re-encoding its framing, while the rest
//! of the request goes to the upstream.
//!
//! At most one read of a response is buffered for a client that is behind: 16 KiB, or 64 KiB after a large body has
//! flowed freely. The upstream is not read meanwhile. Behind the first reads, nothing is read for a client without TLS that
//! takes nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::http::Version;
use pingora::prelude::{Error, OrErr, Result};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::client::Client;
use super::connection::UpstreamConnection;
use super::exchange::{Answer, WaitTimer};
use super::linger;
use super::pool::Pool;
use super::stand_in::stand_in;
use super::upload::{Upload, WaitsFor};
use crate::failure::Failure;
use crate::headers::{self, PageFraming};
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

/// Checks in `timeouts.write` for what a client has read: a client that reads slowly frees no room for a write for long,
/// and the kernel counts each byte.
const STALL_CHECKS: u32 = 4;

/// Reads of a response before the client's room is checked first.
const READS_BEFORE_CHECKS: u32 = 4;

/// Reads in one poll, before the task yields.
const READS_PER_POLL: u32 = 16;

/// Writes the response's head, then its body as it arrives. Keeps the upstream's connection if it can be reused.
///
/// # Errors
/// When either side fails or takes too long; the error says which side. The client then sees an incomplete response.
pub(super) async fn relay(session: &mut Session, answer: Answer, pool: &Pool, timeouts: &Timeouts) -> Result<()> {
    let Answer { mut head, body_start, connection, upload, key, .. } = answer;
    let framing = framing(session, body_start.has_body, &body_start.body);
    let is_http2 = session.as_http2().is_some();
    let takes_trailers = body_start.has_body
        && matches!(body_start.body, Body::Chunked(_))
        && (framing == PageFraming::Chunked || is_http2);
    if framing == PageFraming::UntilEnd || (takes_trailers && head.headers.contains_key("trailer")) {
        // Over HTTP/1 trailers end the connection, see `end_with_trailers`.
        session.set_keepalive(None);
    }
    let keeps_connection = headers::keeps_connection(&head) && is_delimited(head.status.as_u16(), &body_start);
    headers::page_response(&mut head, framing, takes_trailers)?;
    session.downstream_modules_ctx.response_header_filter(&mut head, !body_start.has_body).await?;

    let mut page = Page {
        client: Client::new(session),
        connection,
        upload,
        body: body_start.body,
        excess: false,
        pending: Bytes::new(),
        full_reads: 0,
        reads: 0,
        behind: false,
        trailers: Vec::new(),
        takes_trailers,
        phase: if body_start.has_body { Phase::Body } else { Phase::Ending },
        broken: None,
        progress: 0,
        seen: (0, 0, None),
        timer: WaitTimer::new(),
        stall: Stall::default(),
        timeouts,
    };
    page.client.bound_queue(timeouts.write);
    page.client.send_head(head, !body_start.has_body)?;
    match body_start.has_body {
        true => page.decode(body_start.leftover.into()),
        false => page.excess = !body_start.leftover.is_empty(),
    }
    poll_fn(|cx| page.poll(cx)).await?;

    let Page { connection, upload, excess, trailers, phase, .. } = page;
    if let Some(key) = key.filter(|_| keeps_connection && upload.is_done() && !excess) {
        pool.put(key, connection);
    }
    if phase == Phase::Trailers {
        let sending = end_with_trailers(session, &trailers);
        return match timeouts.write {
            Some(limit) => timeout(limit, sending).await.or_err(ErrorType::WriteTimedout, "writing trailers")?,
            None => sending.await,
        };
    }
    if !upload.is_done() {
        session.set_keepalive(None);
        linger::linger(session).await;
    }
    Ok(())
}

/// The framing of the body for this client.
fn framing(session: &Session, has_body: bool, body: &Body) -> PageFraming {
    match (has_body, body) {
        (false, _) => PageFraming::NoBody,
        (true, Body::Length(length)) => PageFraming::Length(*length),
        (true, _) if session.req_header().version == Version::HTTP_11 => PageFraming::Chunked,
        // HTTP/1.0 ends its body with the connection, HTTP/2 with the stream.
        (true, _) => PageFraming::UntilEnd,
    }
}

/// Whether the end of the response is known, so that another may follow it. A body that a 205 has despite its status is
/// not read.
fn is_delimited(status: u16, body_start: &crate::exchange::BodyStart) -> bool {
    match (body_start.has_body, &body_start.body) {
        (true, body) => !matches!(body, Body::UntilClose),
        (false, body) => status != 205 || matches!(body, Body::Length(0)),
    }
}

/// A response that is being forwarded to the client, and the rest of its request to the upstream.
struct Page<'s, 't> {
    client: Client<'s>,
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
    stall: Stall,
    timeouts: &'t Timeouts,
}

/// What is known of a client that does not keep up.
#[derive(Clone, Copy, Debug, Default)]
struct Stall {
    /// Checks in a row in which it had read nothing.
    checks: u32,
    /// The bytes that it had acknowledged at the last check.
    acknowledged: Option<u64>,
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

impl Page<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.send_request(cx)?;
        let waits = match self.respond(cx) {
            Poll::Ready(done) => return Poll::Ready(done),
            Poll::Pending => self.waits(),
        };
        let seen = (self.progress, self.upload.steps(), Some(waits));
        if self.seen != seen {
            self.seen = seen;
            self.timer.restart();
            let acknowledged = if waits == Waits::Client { self.client.acknowledged() } else { None };
            self.stall = Stall { checks: 0, acknowledged };
        }
        let limit = match waits {
            Waits::Upstream => ready!(self.timer.poll(cx, self.timeouts.read)),
            Waits::Client => ready!(self.poll_stall(cx)),
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

    /// Checks whether the client has read something since the last check.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(limit) = self.timeouts.write else { return Poll::Pending };
        while self.timer.poll(cx, Some(limit / STALL_CHECKS)).is_ready() {
            let acknowledged = self.client.acknowledged();
            let moved = acknowledged != self.stall.acknowledged;
            self.stall = Stall { checks: if moved { 0 } else { self.stall.checks + 1 }, acknowledged };
            if self.stall.checks == STALL_CHECKS {
                return Poll::Ready(limit);
            }
            self.timer.restart();
        }
        Poll::Pending
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
            Ok(_) if self.body.may_end_here() => self.phase = Phase::Ending,
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

/// Writes the last chunk with trailers, which Pingora's session cannot, and closes the connection.
async fn end_with_trailers(session: &mut Session, section: &[u8]) -> Result<()> {
    let Some(response) = session.response_written().cloned() else { return Ok(()) };
    session.set_keepalive(None);
    let stand_in = stand_in(&session.downstream_session, Box::new(response)).await?;
    let ServerSession::H1(client) = std::mem::replace(&mut *session.downstream_session, stand_in) else {
        return Ok(());
    };
    let mut client = client.into_inner();
    let mut last = Vec::new();
    trailers::encode_last_chunk(section, &mut last);
    let sent = async {
        client.write_all(&last).await?;
        client.flush().await?;
        AsyncWriteExt::shutdown(&mut client).await
    };
    sent.await.or_err(ErrorType::WriteError, "writing trailers").map_err(|error| error.into_down())?;
    linger::close(client).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use pingora::http::ResponseHeader;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::stand_in::Replay;
    use super::*;
    use crate::exchange::BodyStart;

    /// Invariant: a response arrives whole though its upstream does not want the rest of the request. Mechanism: after sixteen
    /// reads in a row the rest of the request was taken for bytes behind it. Symptom: an upload of megabytes that is refused
    /// early gets a reset in place of its 413.
    #[tokio::test]
    async fn a_long_upload_that_is_not_wanted_does_not_cut_the_response() {
        let length = 4 << 20;
        let mut wire = format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        wire.resize(wire.len() + length, b'x');
        let mut session = Session::new_h1(Box::new(Replay::of(wire.into())));
        assert!(session.downstream_session.read_request().await.expect("a request"));
        let mut upload = Upload::new(session.req_header(), true, false, None).expect("a request");
        upload.abandon();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let body = Body::Length(4);
        let body_start = BodyStart { is_stream: false, body, has_body: true, leftover: b"much".to_vec() };
        let head = Box::new(ResponseHeader::build(413, None).expect("a head"));
        let answer =
            Answer { head, body_start, connection: UpstreamConnection::Tcp(upstream), upload, server: None, key: None };
        relay(&mut session, answer, &Pool::default(), &Timeouts::default()).await.expect("a whole response");
        assert_eq!(session.body_bytes_sent(), 4);
    }
}
