//! Sends the request: its head, and its body as the client sends it, in steps that can be left off at any point.

use std::time::Duration;

use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{RequestHeader, Version};
use pingora::prelude::{Error, OrErr};
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::proxy::Session;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::time::timeout;

use super::connection::Connection;
use crate::failure::Failure;
use crate::wire::chunked;

/// A request on its way to the upstream.
pub(super) struct Upload<'c> {
    writer: WriteHalf<&'c mut Connection>,
    /// Framed bytes that the upstream has not taken yet.
    pending: Bytes,
    state: State,
    chunked: bool,
    /// How long an HTTP/2 client may keep silent within the body; a session over HTTP/1 has a limit of its own.
    body_limit: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The head goes out; whether a body follows, and whether the client waits to be told to send it.
    Head {
        body: bool,
        expected: bool,
    },
    Body,
    LastChunk,
    Done,
}

impl<'c> Upload<'c> {
    pub(super) fn new(
        writer: WriteHalf<&'c mut Connection>,
        request: &RequestHeader,
        has_body: bool,
        expected: bool,
        body_limit: Option<Duration>,
    ) -> Result<Self, Failure> {
        let wire = http_req_header_to_wire(request).ok_or_else(|| Failure::BadRequest {
            source: Error::explain(
                ErrorType::InvalidHTTPHeader,
                "the request target has bytes that no target may have",
            ),
        })?;
        let chunked = request.headers.contains_key("transfer-encoding");
        Ok(Self {
            writer,
            pending: wire.freeze(),
            state: State::Head { body: has_body, expected },
            chunked,
            body_limit,
        })
    }

    /// Whether everything is sent.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the upstream has to take something before this goes on; otherwise the client has to send something.
    pub(super) fn waits_for_upstream(&self) -> bool {
        !self.pending.is_empty()
    }

    /// One step. Dropped before it is done, it has done nothing: it can be raced and taken up again.
    pub(super) async fn step(&mut self, session: &mut Session) -> Result<(), Failure> {
        if self.waits_for_upstream() {
            return self.write().await;
        }
        match self.state {
            State::Head { body: false, .. } | State::LastChunk => {
                self.writer.flush().await.or_err(ErrorType::WriteError, "flushing the request").map_err(broken)?;
                self.state = State::Done;
            }
            State::Head { body: true, expected } => {
                self.state = State::Body;
                if expected {
                    session.write_continue_response().await.map_err(|source| Failure::ClientGone { source })?;
                }
            }
            State::Body => match self.read_body(session).await {
                Ok(Some(bytes)) if self.chunked => {
                    let mut framed = Vec::with_capacity(bytes.len() + 16);
                    chunked::encode(&bytes, &mut framed);
                    self.pending = framed.into();
                }
                Ok(Some(bytes)) => self.pending = bytes,
                Ok(None) => {
                    self.pending = Bytes::from_static(if self.chunked { chunked::LAST_CHUNK } else { b"" });
                    self.state = State::LastChunk;
                }
                Err(source) => return Err(Failure::of_request_body(source)),
            },
            State::Done => {}
        }
        Ok(())
    }

    async fn read_body(&self, session: &mut Session) -> Result<Option<Bytes>, Box<Error>> {
        let is_http2 = session.as_http2().is_some();
        let read = session.downstream_session.read_request_body();
        match self.body_limit.filter(|_| is_http2) {
            Some(limit) => timeout(limit, read).await.unwrap_or_else(|_| {
                Error::e_explain(ErrorType::ReadTimedout, "the client was silent for client.timeouts.body")
                    .map_err(|error: Box<Error>| error.into_down())
            }),
            None => read.await,
        }
    }

    async fn write(&mut self) -> Result<(), Failure> {
        let count = self.writer.write(&self.pending).await;
        let count = count.or_err(ErrorType::WriteError, "writing the request").map_err(broken)?;
        // A buffering connection has to be told to send; on a plain one this does nothing.
        let _ = self.pending.split_to(count);
        if self.pending.is_empty() {
            self.writer.flush().await.or_err(ErrorType::WriteError, "writing the request").map_err(broken)?;
        }
        Ok(())
    }
}

fn broken(source: Box<Error>) -> Failure {
    Failure::Broken { source }
}

/// "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation"
/// (RFC 9110 §10.1.1).
pub(super) fn expects_continue(request: &RequestHeader) -> bool {
    request.version >= Version::HTTP_11
        && request.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
