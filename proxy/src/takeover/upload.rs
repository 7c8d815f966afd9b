//! Sends the request: its head, then its body as the client sends it. Each call makes the progress that is possible
//! now.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::{Error, OrErr};
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use tokio::io::AsyncWrite;

use super::client::Client;
use super::connection::UpstreamConnection;
use crate::failure::Failure;
use crate::wire::chunked;

/// Steps in one poll, before the task yields.
const STEPS_PER_POLL: u32 = 32;

/// A request that is being sent to the upstream.
pub(super) struct Upload {
    /// Framed bytes not yet written to the upstream.
    pending: Bytes,
    state: State,
    chunked: bool,
    /// Bytes of the body still to come, where its length is known.
    remaining: Option<u64>,
    /// Steps that made progress, so that callers can measure silence.
    steps: u64,
    /// How long the client may be silent within the body.
    silence_limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The head is being sent; whether a body follows, and whether the client expects a 100 first.
    Head {
        body: bool,
        expected: bool,
    },
    /// A 100 is being written to the client.
    Continue,
    Body,
    LastChunk,
    Flush,
    Done,
    /// The upstream reads no more, or the rest is not worth sending.
    Abandoned,
}

/// What the rest of a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    Client,
    Upstream,
    /// There is nothing more to send.
    Nothing,
}

impl Upload {
    /// `silence_limit` bounds how long the client may be silent within the body.
    ///
    /// # Errors
    /// When the request cannot be written as HTTP/1.1.
    pub(super) fn new(
        request: &RequestHeader,
        has_body: bool,
        expected: bool,
        silence_limit: Option<Duration>,
    ) -> Result<Self, Failure> {
        let wire = http_req_header_to_wire(request).ok_or_else(|| Failure::BadRequest {
            source: Error::explain(
                ErrorType::InvalidHTTPHeader,
                "the request target has bytes that no target may have",
            ),
        })?;
        let length = request.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Self {
            pending: wire.freeze(),
            state: State::Head { body: has_body, expected },
            chunked: request.headers.contains_key("transfer-encoding"),
            remaining: length.filter(|_| has_body),
            steps: 0,
            silence_limit,
        })
    }

    /// A request that has been sent completely.
    pub(super) fn done() -> Self {
        Self {
            pending: Bytes::new(),
            state: State::Done,
            chunked: false,
            remaining: None,
            steps: 0,
            silence_limit: None,
        }
    }

    /// Whether everything has been sent.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing more will be sent.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Abandoned)
    }

    /// What it waits for.
    pub(super) fn waits_for(&self) -> WaitsFor {
        match self.state {
            _ if !self.pending.is_empty() => WaitsFor::Upstream,
            State::Done | State::Abandoned => WaitsFor::Nothing,
            State::Body | State::Continue => WaitsFor::Client,
            State::Head { .. } | State::LastChunk | State::Flush => WaitsFor::Upstream,
        }
    }

    /// How long the client may be silent within the body.
    pub(super) fn silence_limit(&self) -> Option<Duration> {
        self.silence_limit
    }

    /// The number of steps that made progress.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Stops sending.
    pub(super) fn abandon(&mut self) {
        if !self.is_done() {
            self.pending = Bytes::new();
            self.state = State::Abandoned;
        }
    }

    /// Makes the progress that is possible now.
    ///
    /// # Errors
    /// [`Failure::Broken`] when the upstream reads no more, which may still respond; any other when the client's side
    /// fails.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Result<(), Failure> {
        for _ in 0..STEPS_PER_POLL {
            if self.is_over() {
                return Ok(());
            }
            match self.step(cx, client, upstream) {
                Poll::Pending => return Ok(()),
                Poll::Ready(moved) => moved?,
            }
            self.steps += 1;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Poll<Result<(), Failure>> {
        if !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *upstream).poll_write(cx, &self.pending));
            let count = written.or_err(ErrorType::WriteError, "writing the request").map_err(broken)?;
            if count == 0 {
                return Poll::Ready(Err(broken(Error::explain(ErrorType::WriteError, "writing the request"))));
            }
            let _ = self.pending.split_to(count);
            return Poll::Ready(Ok(()));
        }
        match self.state {
            State::Head { body: false, .. } | State::LastChunk => self.state = State::Flush,
            State::Head { body: true, expected: true } => {
                // A buffering connection has to send the head before the client gets its 100.
                ready!(Pin::new(&mut *upstream).poll_flush(cx))
                    .or_err(ErrorType::WriteError, "writing the request")
                    .map_err(broken)?;
                let head = ResponseHeader::build(100, Some(0)).map_err(client_gone)?;
                client.send_head(Box::new(head), false).map_err(client_gone)?;
                self.state = State::Continue;
            }
            State::Head { body: true, expected: false } => self.state = State::Body,
            State::Continue => {
                ready!(client.poll_flush(cx)).map_err(client_gone)?;
                self.state = State::Body;
            }
            State::Body if self.remaining == Some(0) => self.state = State::Flush,
            State::Body => {
                let piece = match client.poll_body(cx) {
                    Poll::Ready(piece) => piece.map_err(Failure::of_request_body)?,
                    Poll::Pending => {
                        // Buffered bytes must not wait for the client.
                        let _ = Pin::new(&mut *upstream).poll_flush(cx);
                        return Poll::Pending;
                    }
                };
                self.take(piece)?;
            }
            State::Flush => {
                ready!(Pin::new(&mut *upstream).poll_flush(cx))
                    .or_err(ErrorType::WriteError, "flushing the request")
                    .map_err(broken)?;
                self.state = State::Done;
            }
            State::Done | State::Abandoned => {}
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, piece: Option<Bytes>) -> Result<(), Failure> {
        match piece {
            None if self.remaining.is_some_and(|remaining| remaining > 0) => {
                let what = "the request's body is shorter than its Content-Length";
                return Err(Failure::BadRequest { source: Error::explain(ErrorType::InvalidHTTPHeader, what) });
            }
            None => {
                self.pending = Bytes::from_static(if self.chunked { chunked::LAST_CHUNK } else { b"" });
                self.state = State::LastChunk;
            }
            Some(bytes) if self.chunked => {
                let mut framed = Vec::with_capacity(bytes.len() + 16);
                chunked::encode(&bytes, &mut framed);
                self.pending = framed.into();
            }
            Some(bytes) => {
                let length = bytes.len() as u64;
                match &mut self.remaining {
                    Some(remaining) if *remaining < length => {
                        let what = "the request's body is longer than its Content-Length";
                        return Err(Failure::BadRequest { source: Error::explain(ErrorType::InvalidHTTPHeader, what) });
                    }
                    Some(remaining) => *remaining -= length,
                    None => {}
                }
                self.pending = bytes;
            }
        }
        Ok(())
    }
}

fn broken(source: Box<Error>) -> Failure {
    Failure::Broken { source }
}

fn client_gone(source: Box<Error>) -> Failure {
    Failure::ClientGone { source }
}

/// "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation"
/// (RFC 9110 §10.1.1).
pub(super) fn expects_continue(request: &RequestHeader) -> bool {
    request.version >= Version::HTTP_11
        && request.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
