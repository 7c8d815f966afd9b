//! Exchanges a complete request for a response head without blocking: connects, sends, reads.
//!
//! The counterpart on a reactor's thread of [`super::exchange`], which does the same for a request that Pingora has
//! read.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::Error;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use super::dial::{UPSTREAM_RECEIVE_BYTES, connect_error};
use super::head_reader::HeadReader;
use crate::driver::{self, Endpoint, Route, Socket, descriptors, would_block};
use crate::failure::Failure;
use crate::stream::{KeepAlive, Millis};

/// A request to an upstream until its response head.
pub(super) struct ReactorExchange {
    route: Arc<Route>,
    /// The servers that have not been tried.
    servers: std::vec::IntoIter<Arc<Endpoint>>,
    server: Option<Arc<Endpoint>>,
    /// Head and body; empty once everything is sent.
    request: Vec<u8>,
    sent: usize,
    phase: Phase,
    /// The deadline of the current phase.
    due: Option<Millis>,
    reader: HeadReader,
}

enum Phase {
    Connecting,
    Sending,
    Sent,
    /// The upstream reads no more. If it has sent a response, that response counts.
    Refused(Box<Error>),
}

/// The result of [`ReactorExchange::drive`].
pub(super) enum ExchangeStep {
    /// Nothing yet: wait for the socket or the deadline.
    Wait,
    /// A new upstream socket, and whether to wait until it is writable.
    Connected(TcpStream, bool),
    /// A response head, interim or final.
    Head(Box<ResponseHeader>),
    /// No server could be connected to, or the chosen one failed to respond.
    Failed(Failure),
}

impl ReactorExchange {
    /// Connects on the first [`ReactorExchange::drive`].
    pub(super) fn new(route: Arc<Route>, servers: Vec<Arc<Endpoint>>, request: Vec<u8>) -> Self {
        Self {
            route,
            servers: servers.into_iter(),
            server: None,
            request,
            sent: 0,
            phase: Phase::Connecting,
            due: None,
            reader: HeadReader::default(),
        }
    }

    /// The route of the request.
    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The server that was connected to last.
    pub(super) fn server(&self) -> Option<&Arc<Endpoint>> {
        self.server.as_ref()
    }

    /// When to call [`ReactorExchange::drive`] again at the latest.
    pub(super) fn due(&self) -> Option<Millis> {
        self.due
    }

    /// Takes the reader, with the last head and the bytes after it.
    pub(super) fn take_reader(&mut self) -> HeadReader {
        std::mem::take(&mut self.reader)
    }

    /// Makes all progress that is possible now; `upstream` is the socket that was connected last, if there is one.
    pub(super) fn drive(&mut self, upstream: Option<&mut dyn Socket>, now: Millis, input: &mut [u8]) -> ExchangeStep {
        let Some(upstream) = upstream else { return self.dial(Failure::NoServer, now) };
        if let Some(outcome) = self.send(upstream, now) {
            return outcome;
        }
        loop {
            match self.reader.take() {
                Ok(Some(head)) => return ExchangeStep::Head(head),
                Ok(None) => {}
                Err(source) => return ExchangeStep::Failed(Failure::Broken { source }),
            }
            match upstream.read(input) {
                Ok(0) => return self.broken(self.reader.cut_short()),
                Ok(count) => self.reader.feed(&input[..count]),
                Err(error) if would_block(&error) => break,
                Err(error) => {
                    return self.broken(Error::because(ErrorType::ReadError, "reading the response head", error));
                }
            }
        }
        self.overdue(now).map_or(ExchangeStep::Wait, ExchangeStep::Failed)
    }

    /// The failure of a request that has been sent and whose deadline has expired.
    pub(super) fn overdue(&self, now: Millis) -> Option<Failure> {
        let limit = self.route.policy.timeouts.first_byte.unwrap_or_default();
        self.due.is_some_and(|due| due <= now).then_some(Failure::FirstByteTimeout { limit })
    }

    /// Tries the remaining servers in order. Nothing has been sent yet, so trying the next is always safe.
    fn dial(&mut self, mut failure: Failure, now: Millis) -> ExchangeStep {
        for server in self.servers.by_ref() {
            let address = server.address;
            self.server = Some(server);
            match connect(address, self.route.policy.keep_alive)
                .and_then(|socket| Ok((write(&socket, &self.request)?, socket)))
            {
                Ok((count, socket)) => {
                    self.phase = Phase::Connecting;
                    self.due = self.route.policy.timeouts.connect.map(|limit| now.after(limit));
                    if let Some(count) = count {
                        self.advance(count, now);
                    }
                    let more = !matches!(self.phase, Phase::Sent);
                    if more {
                        // Later partial writes must not wait for acknowledgements (Nagle).
                        let _ = socket.set_nodelay(true);
                    }
                    return ExchangeStep::Connected(socket, more);
                }
                Err(error) => failure = connect_failure(address, error),
            }
        }
        ExchangeStep::Failed(failure)
    }

    /// Sends as much as possible. Returns a step that has to happen first, if any.
    fn send(&mut self, upstream: &mut dyn Socket, now: Millis) -> Option<ExchangeStep> {
        while matches!(self.phase, Phase::Connecting | Phase::Sending) {
            let is_connecting = matches!(self.phase, Phase::Connecting);
            let address = self.server.as_ref().map(|server| server.address);
            match (upstream.write(&self.request[self.sent..]), address) {
                (Ok(count), _) => self.advance(count, now),
                (Err(error), Some(server)) if is_connecting && !would_block(&error) => {
                    return Some(self.dial(connect_failure(server, error), now));
                }
                (Err(_), Some(server)) if is_connecting && self.due.is_some_and(|due| due <= now) => {
                    let limit = self.route.policy.timeouts.connect.unwrap_or_default();
                    return Some(self.dial(Failure::ConnectTimeout { peer: server.to_string(), limit }, now));
                }
                (Err(_), _) if is_connecting => return Some(ExchangeStep::Wait),
                (Err(error), _) if would_block(&error) => return None,
                (Err(error), _) => {
                    self.phase = Phase::Refused(Error::because(ErrorType::WriteError, "writing the request", error));
                }
            }
        }
        None
    }

    fn advance(&mut self, count: usize, now: Millis) {
        self.sent += count;
        self.due = self.route.policy.timeouts.first_byte.map(|limit| now.after(limit));
        if self.sent == self.request.len() {
            self.request = Vec::new();
            self.phase = Phase::Sent;
        } else {
            self.phase = Phase::Sending;
        }
    }

    /// The upstream closed without a response head. The write error says more than the close that followed it.
    fn broken(&mut self, source: Box<Error>) -> ExchangeStep {
        let source = match std::mem::replace(&mut self.phase, Phase::Sent) {
            Phase::Refused(error) => error,
            _ => source,
        };
        ExchangeStep::Failed(Failure::Broken { source })
    }
}

fn connect_failure(server: SocketAddr, error: io::Error) -> Failure {
    Failure::Connect { peer: server.to_string(), source: connect_error(error) }
}

/// Starts a non-blocking connection attempt.
fn connect(server: SocketAddr, keep_alive: Option<KeepAlive>) -> io::Result<TcpStream> {
    let socket = RawSocket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if descriptors::is_reserved(socket.as_raw_fd()) {
        return Err(descriptors::none_left());
    }
    SockRef::from(&socket).set_recv_buffer_size(UPSTREAM_RECEIVE_BYTES)?;
    if let Some(keep_alive) = keep_alive {
        driver::keep_alive(SockRef::from(&socket), keep_alive)?;
    }
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Writes to a socket that may not be connected yet; `None` if it is not. A server on the same machine connects at
/// once.
fn write(mut socket: &TcpStream, request: &[u8]) -> io::Result<Option<usize>> {
    match socket.write(request) {
        Ok(count) => Ok(Some(count)),
        Err(error) if would_block(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
