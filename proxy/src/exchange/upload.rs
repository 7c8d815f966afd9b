//! A request that is being sent to the upstream: what goes next, and how its body is framed.
//!
//! A driver asks [`Upload::need`], does it, and reports it. The upload outlives the exchange where the upstream responds
//! before it has read the whole request.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::prelude::Error;

use super::request::request_wire;
use crate::failure::Failure;
use crate::wire::chunked;

/// The state of the request.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The unsent rest of the request's head, or of a request that is complete.
    head: BytesMut,
    /// The unsent rest of a piece of the body, framed.
    piece: Bytes,
    state: State,
    chunked: bool,
    /// Bytes of the body still to come, where its length is known.
    remaining: Option<u64>,
    /// Steps that made progress, so that silence can be measured.
    steps: u64,
    /// How long the client may be silent within the body.
    silence_limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A request that is complete; nothing has to be flushed.
    Whole,
    /// The head is being sent; whether a body follows, and whether the client expects a 100 first.
    Head {
        body: bool,
        expected: bool,
    },
    /// A connection that buffers has to send the head before the client gets its 100.
    FlushHead,
    /// The client is to get a 100.
    Expected,
    /// The 100 is being written to the client.
    Continue,
    Body,
    LastChunk,
    Flush,
    Done,
    /// The upstream reads no more, or the rest is not worth sending.
    Abandoned,
}

/// What the upload needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// Write these bytes to the upstream, then call [`Upload::wrote`].
    Write(&'a [u8]),
    /// Flush the upstream's connection, then call [`Upload::flushed`].
    Flush,
    /// Queue a 100 for the client, then call [`Upload::continue_queued`].
    Continue,
    /// Write what is queued for the client, then call [`Upload::client_flushed`].
    FlushClient,
    /// Read the next piece of the body, then call [`Upload::read`].
    Read,
    /// Nothing more will be sent.
    Nothing,
}

/// What the rest of a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
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
    pub(crate) fn new(
        request: &RequestHeader,
        has_body: bool,
        expected: bool,
        silence_limit: Option<Duration>,
    ) -> Result<Self, Failure> {
        let length = request.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Self {
            chunked: request.headers.contains_key("transfer-encoding"),
            remaining: length.filter(|_| has_body),
            silence_limit,
            ..Self::of(request_wire(request)?, State::Head { body: has_body, expected })
        })
    }

    /// A complete request, head and body.
    pub(crate) fn whole(request: BytesMut) -> Self {
        Self::of(request, State::Whole)
    }

    /// A request without a body, over a connection that may buffer.
    pub(super) fn head_only(head: BytesMut) -> Self {
        Self::of(head, State::Head { body: false, expected: false })
    }

    /// A request that has been sent completely.
    pub(crate) fn done() -> Self {
        Self::of(BytesMut::new(), State::Done)
    }

    fn of(head: BytesMut, state: State) -> Self {
        Self { head, piece: Bytes::new(), state, chunked: false, remaining: None, steps: 0, silence_limit: None }
    }

    /// What to do next.
    pub(crate) fn need(&self) -> Need<'_> {
        match self.state {
            _ if !self.head.is_empty() => Need::Write(&self.head),
            _ if !self.piece.is_empty() => Need::Write(&self.piece),
            State::FlushHead | State::Flush => Need::Flush,
            State::Expected => Need::Continue,
            State::Continue => Need::FlushClient,
            State::Body => Need::Read,
            State::Whole | State::Head { .. } | State::LastChunk | State::Done | State::Abandoned => Need::Nothing,
        }
    }

    /// The unsent bytes of the head, or of a request that is complete.
    pub(crate) fn unsent_head(&self) -> &[u8] {
        &self.head
    }

    /// `count` bytes of those in [`Need::Write`] have been written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.steps += 1;
        if self.head.is_empty() {
            self.piece.advance(count.min(self.piece.len()));
        } else if count < self.head.len() {
            self.head.advance(count);
        } else {
            // Frees the memory: a request may wait long for its response.
            self.head = BytesMut::new();
        }
        if !self.head.is_empty() || !self.piece.is_empty() {
            return;
        }
        self.state = match self.state {
            State::Whole => State::Done,
            State::Head { body: false, .. } | State::LastChunk => State::Flush,
            State::Head { expected: true, .. } => State::FlushHead,
            State::Head { .. } => self.body_state(),
            State::Body => self.body_state(),
            other => other,
        };
    }

    /// The upstream's connection has been flushed.
    pub(crate) fn flushed(&mut self) {
        self.steps += 1;
        self.state = match self.state {
            State::FlushHead => State::Expected,
            State::Flush => State::Done,
            other => other,
        };
    }

    /// The 100 is queued for the client.
    pub(crate) fn continue_queued(&mut self) {
        self.steps += 1;
        if self.state == State::Expected {
            self.state = State::Continue;
        }
    }

    /// What was queued for the client has been written.
    pub(crate) fn client_flushed(&mut self) {
        self.steps += 1;
        if self.state == State::Continue {
            self.state = self.body_state();
        }
    }

    /// Takes the next piece of the body; `None` is its end.
    ///
    /// # Errors
    /// When the body is shorter or longer than its `Content-Length`.
    pub(crate) fn read(&mut self, piece: Option<Bytes>) -> Result<(), Failure> {
        self.steps += 1;
        match piece {
            None if self.remaining.is_some_and(|remaining| remaining > 0) => {
                return Err(bad_request("the request's body is shorter than its Content-Length"));
            }
            None if self.chunked => {
                self.piece = Bytes::from_static(chunked::LAST_CHUNK);
                self.state = State::LastChunk;
            }
            None => self.state = State::Flush,
            Some(bytes) if self.chunked => {
                let mut framed = Vec::with_capacity(bytes.len() + 16);
                chunked::encode(&bytes, &mut framed);
                self.piece = framed.into();
            }
            Some(bytes) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining
                        .checked_sub(bytes.len() as u64)
                        .ok_or_else(|| bad_request("the request's body is longer than its Content-Length"))?;
                }
                self.piece = bytes;
            }
        }
        Ok(())
    }

    fn body_state(&self) -> State {
        if self.remaining == Some(0) { State::Flush } else { State::Body }
    }

    /// Whether everything has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing more will be sent.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Abandoned)
    }

    /// What it waits for.
    pub(crate) fn waits_for(&self) -> WaitsFor {
        match self.need() {
            Need::Write(_) | Need::Flush => WaitsFor::Upstream,
            Need::Continue | Need::FlushClient | Need::Read => WaitsFor::Client,
            Need::Nothing => WaitsFor::Nothing,
        }
    }

    /// How long the client may be silent within the body.
    pub(crate) fn silence_limit(&self) -> Option<Duration> {
        self.silence_limit
    }

    /// The number of steps that made progress.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Stops sending.
    pub(crate) fn abandon(&mut self) {
        if !self.is_done() {
            if self.waits_for() == WaitsFor::Client {
                // It waits for something else from now on.
                self.steps += 1;
            }
            (self.head, self.piece) = (BytesMut::new(), Bytes::new());
            self.state = State::Abandoned;
        }
    }
}

fn bad_request(what: &'static str) -> Failure {
    Failure::BadRequest { source: Error::explain(ErrorType::InvalidHTTPHeader, what) }
}

#[cfg(test)]
mod tests {
    use pingora::http::Method;

    use super::*;

    fn upload(fields: &[(&'static str, &'static str)], has_body: bool, expected: bool) -> Upload {
        let mut request = RequestHeader::build(Method::POST, b"/up", None).expect("a request");
        for (name, value) in fields {
            request.insert_header(*name, *value).expect("a field");
        }
        Upload::new(&request, has_body, expected, None).expect("a request")
    }

    /// Drives an upload of these pieces, separated by spaces, `step` bytes in each write. Returns what was sent after the head, and what else
    /// was done, in order.
    fn drive(upload: &mut Upload, pieces: &'static str, step: usize) -> Result<(Vec<u8>, String), Failure> {
        let (mut sent, mut done) = (Vec::new(), String::new());
        let mut pieces = pieces.split_whitespace();
        loop {
            let before = (upload.steps(), upload.waits_for());
            match upload.need() {
                Need::Write(bytes) => {
                    let count = step.min(bytes.len());
                    sent.extend_from_slice(&bytes[..count]);
                    upload.wrote(count);
                    assert_eq!(before.1, WaitsFor::Upstream);
                }
                Need::Flush => (done.push('f'), upload.flushed()).1,
                Need::Continue => (done.push('c'), upload.continue_queued()).1,
                Need::FlushClient => (done.push('w'), upload.client_flushed()).1,
                Need::Read => {
                    assert_eq!(before.1, WaitsFor::Client);
                    upload.read(pieces.next().map(|piece| Bytes::from_static(piece.as_bytes())))?;
                }
                Need::Nothing => {
                    assert!(upload.is_done() && upload.is_over() && before.1 == WaitsFor::Nothing);
                    let head = sent.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
                    return Ok((sent.split_off(head), done));
                }
            }
            assert!(upload.steps() > before.0, "each step is progress");
        }
    }

    #[test]
    fn a_body_is_framed_as_its_head_says_at_every_size_of_a_write() {
        let chunked: &[_] = &[("transfer-encoding", "chunked")];
        let length: &[_] = &[("content-length", "5")];
        for (fields, has_body, expected, pieces, sent, done) in [
            (&[][..], false, false, "", &b""[..], "f"),
            (&[("content-length", "0")], false, false, "", b"", "f"),
            (length, true, false, "he llo", b"hello", "f"),
            (length, true, true, "hello", b"hello", "fcwf"),
            (chunked, true, false, "he llo", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "f"),
            (chunked, true, true, "", b"0\r\n\r\n", "fcwf"),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                let mut upload = upload(fields, has_body, expected);
                let driven = drive(&mut upload, pieces, step).expect("a whole body");
                assert_eq!(driven, (sent.to_vec(), done.to_owned()), "{fields:?} {step}");
            }
        }
        let mut whole = Upload::whole(BytesMut::from(&b"GET / HTTP/1.1\r\n\r\nbody"[..]));
        assert_eq!(drive(&mut whole, "", 3).expect("a request"), (b"body".to_vec(), String::new()));
    }

    #[test]
    fn a_body_that_differs_from_its_length_is_refused() {
        for (pieces, what) in [("hell", "shorter"), ("hello !", ""), ("hello!", "longer")] {
            let mut upload = upload(&[("content-length", "5")], true, false);
            match drive(&mut upload, pieces, 1000) {
                Err(Failure::BadRequest { source }) => {
                    assert!(!what.is_empty() && source.to_string().contains(what), "{pieces}: {source}");
                }
                // After the last byte that is announced, nothing is read.
                Ok(_) => assert!(what.is_empty(), "{pieces}"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn an_abandoned_upload_sends_nothing_more_and_a_complete_one_stays_complete() {
        let mut half = upload(&[("content-length", "5")], true, false);
        half.wrote(3);
        half.abandon();
        assert_eq!((half.need(), half.is_over(), half.is_done()), (Need::Nothing, true, false));
        let mut done = Upload::done();
        done.abandon();
        assert!(done.is_done());
    }
}
