//! The state machine of one exchange: which server is tried, which head of the response goes where, and what fails when.
//!
//! A driver calls [`Exchange::next`] until it returns [`Action::Wait`], does what it says and reports the result. It
//! moves the request as [`Exchange::need`] says, in between, and calls again at [`Exchange::deadline`] at the latest.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::Error;

use super::clocks::{Clock, Clocks};
use super::head_reader::HeadReader;
use super::response::{BodyStart, HeadKind};
use super::upload::{Need, Upload, WaitsFor};
use crate::failure::Failure;
use crate::headers;
use crate::stream::{Millis, Policy};

/// What is fixed for an exchange.
pub(crate) struct Rules {
    /// Its limits.
    pub(crate) policy: Arc<Policy>,
    /// Whether the response may be carried as a stream.
    pub(crate) may_be_stream: bool,
    /// Whether the response to the request has no body, whatever its head says.
    pub(crate) is_head: bool,
    /// Whether interim responses go on to the client: [`takes_interim`](super::takes_interim).
    pub(crate) takes_interim: bool,
    /// Whether the request may be sent again, and so over a kept connection, which its server may be closing.
    pub(crate) is_repeatable: bool,
}

/// A request to one of `S`, the servers, until its response head.
pub(crate) struct Exchange<S> {
    rules: Rules,
    /// The servers that have not been tried.
    servers: std::vec::IntoIter<S>,
    /// The server that was tried last.
    server: Option<S>,
    state: State,
    clocks: Clocks,
    upload: Upload,
    /// The upload's steps when its clock was started.
    steps: u64,
    /// The whole request, while it may be sent again.
    copy: Option<Bytes>,
    reader: HeadReader,
    /// Why the upstream reads no more of the request. If it has sent a response, that response counts.
    write_error: Option<Box<Error>>,
    /// Whether an interim response is not yet written to the client.
    interim_waits: bool,
}

enum State {
    /// The next server is to be tried. Holds why the one before could not be connected to.
    Dial(Failure),
    /// The kept connection was closed before it carried a response: the same server is to be connected to anew.
    Redial,
    Connecting,
    Open {
        reused: bool,
    },
    Failed(Failure),
    Over,
}

/// What a driver does next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Connect to [`Exchange::server`], in place of any other connection, and call [`Exchange::connected`],
    /// [`Exchange::wrote`] or [`Exchange::connect_failed`]. With `reuse` a kept connection may be taken.
    Connect { reuse: bool },
    /// Read from the upstream, and call [`Exchange::received`], [`Exchange::closed`], [`Exchange::read_failed`] or
    /// [`Exchange::read_blocked`].
    Read,
    /// Write this interim response to the client, and call [`Exchange::interim_blocked`] or
    /// [`Exchange::interim_written`].
    Forward(Box<ResponseHeader>),
    /// The response is an event stream, which begins now.
    Stream(Box<ResponseHeader>, BodyStart),
    /// Pass the response on. [`Exchange::page`] or [`Exchange::take_received`] has the bytes after its head.
    Page(Box<ResponseHeader>),
    /// There is no response.
    Fail(Failure),
    /// Nothing: wait for a socket or the deadline.
    Wait,
}

impl<S: Display> Exchange<S> {
    /// An exchange of `upload` with the first of `servers` that can be connected to.
    pub(crate) fn new(rules: Rules, servers: Vec<S>, upload: Upload) -> Self {
        Self {
            servers: servers.into_iter(),
            server: None,
            state: State::Dial(Failure::NoServer),
            clocks: Clocks::default(),
            copy: rules.is_repeatable.then(|| Bytes::copy_from_slice(upload.unsent_head())),
            reader: HeadReader::new(rules.policy.response_head_bytes),
            upload,
            steps: 0,
            write_error: None,
            interim_waits: false,
            rules,
        }
    }

    /// The limits.
    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.rules.policy
    }

    /// The server that was tried last.
    pub(crate) fn server(&self) -> Option<&S> {
        self.server.as_ref()
    }

    /// When to call [`Exchange::next`] again at the latest.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.clocks.next()
    }

    /// What the upload needs.
    pub(crate) fn need(&self) -> Need<'_> {
        self.upload.need()
    }

    /// The upload, for a driver that moves the request. Call [`Exchange::uploaded`] afterwards.
    pub(crate) fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    /// Whether the driver watches for the client's end: unless it reads from the client in any case.
    pub(crate) fn watches_client(&self) -> bool {
        self.upload.waits_for() != WaitsFor::Client
    }

    /// What to do next.
    pub(crate) fn next(&mut self, now: Millis) -> Action {
        match &self.state {
            State::Connecting => match self.overdue(now) {
                Some(failure) => {
                    self.state = State::Dial(failure);
                    self.dial(now)
                }
                None => Action::Wait,
            },
            State::Open { .. } => self.head(now),
            _ => self.dial(now),
        }
    }

    /// A connection to the server has been made; `reused` if it has carried a request before.
    pub(crate) fn connected(&mut self, reused: bool, now: Millis) {
        self.state = State::Open { reused };
        if !reused {
            self.copy = None;
        }
        self.clocks.stop(Clock::Connect);
        self.restart(now);
    }

    /// No connection to the server can be made.
    pub(crate) fn connect_failed(&mut self, source: Box<Error>) {
        self.state = State::Dial(Failure::Connect { peer: self.peer(), source });
    }

    /// `count` bytes of those in [`Need::Write`] have been written. The first show that the connection has been made.
    pub(crate) fn wrote(&mut self, count: usize, now: Millis) {
        self.upload.wrote(count);
        match self.state {
            State::Connecting => self.connected(false, now),
            _ => self.uploaded(now),
        }
    }

    /// The upload may have made progress.
    pub(crate) fn uploaded(&mut self, now: Millis) {
        if self.upload.steps() != self.steps {
            self.restart(now);
        }
    }

    /// Writing the request failed.
    pub(crate) fn write_failed(&mut self, error: io::Error) {
        match self.state {
            State::Connecting => self.connect_failed(connect_error(error)),
            _ => self.refused(Error::because(ErrorType::WriteError, "writing the request", error)),
        }
    }

    /// The upload failed: because of the upstream, which may still respond, or because of the client.
    pub(crate) fn upload_failed(&mut self, failure: Failure) {
        match failure {
            Failure::Broken { source } => self.refused(source),
            other => self.state = State::Failed(other),
        }
    }

    /// The client closed the connection, or aborted its request.
    pub(crate) fn client_gone(&mut self, source: Box<Error>) {
        self.state = State::Failed(Failure::ClientGone { source });
    }

    /// Bytes have been read from the upstream.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
    }

    /// Nothing can be read from the upstream now.
    pub(crate) fn read_blocked(&mut self, now: Millis) -> Action {
        self.overdue(now).map_or(Action::Wait, Action::Fail)
    }

    /// The upstream closed the connection.
    pub(crate) fn closed(&mut self) {
        self.broken(self.reader.cut_short());
    }

    /// Reading from the upstream failed.
    pub(crate) fn read_failed(&mut self, error: io::Error) {
        self.broken(Error::because(ErrorType::ReadError, "reading the response head", error));
    }

    /// Interim responses are not yet written to the client; `progress` if part of them has been since the last call.
    pub(crate) fn interim_blocked(&mut self, progress: bool, now: Millis) {
        if progress || !self.interim_waits {
            self.clocks.start(Clock::Write, now, self.rules.policy.timeouts.write);
        }
        self.interim_waits = true;
    }

    /// All interim responses have been written.
    pub(crate) fn interim_written(&mut self) {
        self.interim_waits = false;
        self.clocks.stop(Clock::Write);
    }

    /// The body of the page whose head was returned, and the rest of the request.
    ///
    /// # Errors
    /// When the body's framing cannot be relied on.
    pub(crate) fn page(self, head: &ResponseHeader) -> Result<(BodyStart, Upload), Failure> {
        Ok((BodyStart::of(head, self.reader, self.rules.is_head, false)?, self.upload))
    }

    /// The rest of the request.
    pub(crate) fn into_upload(self) -> Upload {
        self.upload
    }

    /// Takes the head that was returned last and the bytes after it, as they were received.
    pub(crate) fn take_received(&mut self) -> Vec<u8> {
        self.take_reader().into_bytes()
    }

    fn take_reader(&mut self) -> HeadReader {
        std::mem::replace(&mut self.reader, HeadReader::new(0))
    }

    fn peer(&self) -> String {
        self.server.as_ref().map_or_else(String::new, S::to_string)
    }

    /// Tries the next server. Nothing has been sent yet, so this is always safe.
    fn dial(&mut self, now: Millis) -> Action {
        let reuse = match std::mem::replace(&mut self.state, State::Over) {
            State::Redial => false,
            State::Dial(failure) => match self.servers.next() {
                Some(server) => {
                    self.server = Some(server);
                    self.copy.is_some()
                }
                None => return Action::Fail(failure),
            },
            State::Failed(failure) => return Action::Fail(failure),
            _ => return Action::Wait,
        };
        self.state = State::Connecting;
        self.clocks.start(Clock::Connect, now, self.rules.policy.timeouts.connect);
        Action::Connect { reuse }
    }

    /// The next head that has been received. A final one counts even if a deadline has expired meanwhile; a series of
    /// interim ones does not postpone it.
    fn head(&mut self, now: Millis) -> Action {
        loop {
            if self.interim_waits {
                return self.read_blocked(now);
            }
            let mut head = match self.reader.take() {
                Ok(Some(head)) => head,
                Ok(None) => return Action::Read,
                Err(failure) => return Action::Fail(failure),
            };
            let kind = HeadKind::of(&head);
            match kind {
                HeadKind::Switching => return Action::Fail(Failure::Switched),
                HeadKind::Final => return self.respond(head),
                HeadKind::Continue | HeadKind::Interim => {}
            }
            if let Some(failure) = self.overdue(now) {
                return Action::Fail(failure);
            }
            if kind == HeadKind::Interim && self.rules.takes_interim {
                headers::interim_response(&mut head);
                return Action::Forward(head);
            }
        }
    }

    fn respond(&mut self, head: Box<ResponseHeader>) -> Action {
        let has_body = !headers::has_no_body(head.status.as_u16(), self.rules.is_head);
        if !self.rules.may_be_stream || !has_body || !headers::is_event_stream(&head) {
            return Action::Page(head);
        }
        match BodyStart::of(&head, self.take_reader(), false, true) {
            Ok(body_start) => Action::Stream(head, body_start),
            Err(failure) => Action::Fail(failure),
        }
    }

    /// Starts the clock of what the upload waits for.
    fn restart(&mut self, now: Millis) {
        self.steps = self.upload.steps();
        let timeouts = &self.rules.policy.timeouts;
        match self.upload.waits_for() {
            WaitsFor::Client => {
                self.clocks.stop(Clock::FirstByte);
                self.clocks.start(Clock::Body, now, self.upload.silence_limit());
            }
            WaitsFor::Upstream | WaitsFor::Nothing => {
                self.clocks.stop(Clock::Body);
                self.clocks.start(Clock::FirstByte, now, timeouts.first_byte);
            }
        }
    }

    /// The failure of the expired deadline, if one has expired.
    fn overdue(&self, now: Millis) -> Option<Failure> {
        let timeouts = &self.rules.policy.timeouts;
        Some(match self.clocks.expired(now)? {
            Clock::Write => Failure::WriteTimeout { limit: timeouts.write.unwrap_or_default() },
            Clock::Connect => {
                Failure::ConnectTimeout { peer: self.peer(), limit: timeouts.connect.unwrap_or_default() }
            }
            Clock::Body => {
                let limit = self.upload.silence_limit().unwrap_or_default();
                let source = Error::explain(ErrorType::ReadTimedout, format!("no byte arrived within {limit:?}"));
                Failure::RequestTimeout { source }
            }
            Clock::FirstByte => Failure::FirstByteTimeout { limit: timeouts.first_byte.unwrap_or_default() },
        })
    }

    fn refused(&mut self, error: Box<Error>) {
        self.upload.abandon();
        self.write_error = Some(error);
    }

    /// The connection ended before the response head was complete. Sends the request once more if the server may have
    /// closed the connection before it received it.
    fn broken(&mut self, source: Box<Error>) {
        let write_error = self.write_error.take();
        if matches!(self.state, State::Open { reused: true })
            && self.reader.is_untouched()
            && let Some(copy) = self.copy.take()
        {
            (self.upload, self.steps) = (Upload::head_only(BytesMut::from(copy)), 0);
            self.clocks = Clocks::default();
            self.state = State::Redial;
            return;
        }
        // The write error says more than the close that followed it.
        self.state = State::Failed(Failure::Broken { source: write_error.unwrap_or(source) });
    }
}

/// Converts the system's error of a failed connection attempt to Pingora's.
pub(crate) fn connect_error(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            ErrorType::ConnectNoRoute
        }
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting", error).into_up()
}
