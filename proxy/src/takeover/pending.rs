//! A connection that a reactor has accepted, until it is a stream or is handed off to Pingora.
//!
//! A plain request that arrives whole and goes to plain servers is sent from here, and waits for its response in a
//! kilobyte. If the response is an event stream, the stream starts here. Everything else is handed off to Pingora, with
//! the bytes read from both sides: requests that are not for streams, unusual requests, other responses, failures.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pingora::ErrorType;
use pingora::http::{Method, ResponseHeader};
use pingora::prelude::Error;
use pingora::protocols::http::date::get_cached_date;

use super::client_connection::MAX_PIPELINED_BYTES;
use super::control::opening;
use super::dial;
use super::handoff::{Decided, EarlyAnswer, HandedOff, HandlerShared, RequestHandler};
use super::plan::{Carriage, Decision, Permits, Plan, RefuseReason};
use super::whole_request::WholeRequest;
use crate::driver::{ConnectionHandler, Endpoint, Pending, Route, Socket, Start, Step, StreamInfo, would_block};
use crate::exchange::{
    Action, BodyStart, ClientHop, Exchange, Need, Rules, Upload, connect_error, finish_stream_head, request_wire,
    stream_framing, takes_interim, upstream_request,
};
use crate::failure::Failure;
use crate::headers;
use crate::stream::{Framing, Millis};
use crate::wire::proxy_protocol::{Header, ProxyProtocol, Violation};

/// Interim responses in one call, before the connection yields to others.
const HEADS_PER_CALL: u32 = 16;

/// A connection from its accept until it is a stream, is handed off or closes.
pub(super) struct PendingConnection {
    /// The peer's, or the one in its PROXY protocol header.
    address: SocketAddr,
    /// Whether a header is still to come.
    proxy_protocol: ProxyProtocol,
    handler: Arc<HandlerShared>,
    /// When the connection is closed if the client has sent nothing.
    header_deadline: Option<Millis>,
    /// Everything that the client has sent.
    received: Vec<u8>,
    request: Option<Box<RequestPhase>>,
    /// What Pingora gets with the connection.
    outcome: Option<Outcome>,
}

/// The request of a connection.
struct RequestPhase {
    exchange: Exchange<Arc<Endpoint>>,
    route: Arc<Route>,
    /// The client's address, which a proxy in front may have reported.
    client: Option<SocketAddr>,
    method: Method,
    target: Box<str>,
    framing: Framing,
    since: Millis,
    dropped_fields: usize,
    /// Interim responses not yet written to the client.
    unsent: Vec<u8>,
    permits: Permits,
}

enum Outcome {
    /// The request is not sent.
    Refused(RefuseReason),
    /// The upstream's response is not an event stream; these are the bytes read of it.
    Other(Vec<u8>),
    Failed(Failure),
}

impl ConnectionHandler for RequestHandler {
    fn connected(&self, client: SocketAddr, now: Millis) -> Box<dyn Pending> {
        Box::new(PendingConnection::new(client, self.0.clone(), now))
    }
}

impl PendingConnection {
    fn new(address: SocketAddr, handler: Arc<HandlerShared>, now: Millis) -> Self {
        let header_deadline = handler.admission.client_rules().policy.header.map(|limit| now.after(limit));
        let proxy_protocol = handler.proxy_protocol;
        Self { address, proxy_protocol, handler, header_deadline, received: Vec::new(), request: None, outcome: None }
    }

    /// Reads the first bytes, which decide between this module and Pingora.
    fn read_request(&mut self, client: &mut dyn Socket, now: Millis, input: &mut [u8]) -> Option<Step> {
        loop {
            match client.read(input) {
                Err(error) if would_block(&error) && self.header_deadline.is_none_or(|until| now < until) => {
                    return Some(Step::Wait);
                }
                Ok(count) if count > 0 => self.received.extend_from_slice(&input[..count]),
                _ => {
                    if self.proxy_protocol != ProxyProtocol::Off && !self.received.is_empty() {
                        self.handler.admission.violated(Violation::Unfinished, self.address);
                    }
                    return Some(Step::Close);
                }
            }
            if self.proxy_protocol != ProxyProtocol::Off && !self.take_proxy_header() {
                return Some(Step::Close);
            }
            // More has to come behind a header, or of it.
            if self.proxy_protocol == ProxyProtocol::Off && !self.received.is_empty() {
                return self.start_request(client, now);
            }
        }
    }

    /// Takes a PROXY protocol header from the front of what has been received, once it is complete. Returns whether the
    /// connection goes on.
    fn take_proxy_header(&mut self) -> bool {
        let is_trusted = self.handler.admission.client_rules().trusted_proxies.contains(self.address.ip());
        match self.proxy_protocol.header(&self.received, is_trusted) {
            Ok(None) => {}
            Ok(Some(Header { length, source })) => {
                self.received.drain(..length);
                self.address = source.unwrap_or(self.address);
                self.proxy_protocol = ProxyProtocol::Off;
            }
            Err(violation) => {
                self.handler.admission.violated(violation, self.address);
                return false;
            }
        }
        true
    }

    fn start_request(&mut self, client: &mut dyn Socket, now: Millis) -> Option<Step> {
        match start_request(&self.received, self.address, &self.handler, now) {
            Ok(request) => {
                self.request = Some(request);
                None
            }
            Err(NotSent::HandOff(refused)) => {
                self.outcome = refused.map(Outcome::Refused);
                Some(Step::HandOff)
            }
            Err(NotSent::Answer(answer)) => {
                // The send buffer of a new connection has room for it. A client that has gone needs none.
                let _ = client.write(&answer);
                Some(Step::Close)
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> Step {
        let Some(request) = &self.request else { return Step::Close };
        // The client has closed the connection, or has part of an interim response, after which no other response can
        // be sent.
        if matches!(failure, Failure::ClientGone { .. }) || !request.unsent.is_empty() {
            request.route.failed(&failure);
            self.handler.admission.answered(0);
            self.handler.admission.dropped_fields(request.dropped_fields);
            return Step::Close;
        }
        self.outcome = Some(Outcome::Failed(failure));
        Step::HandOff
    }

    /// Starts the stream whose head has been read.
    fn begin(&mut self, mut response: Box<ResponseHeader>, body_start: BodyStart, now: Millis) -> Step {
        let Some(request) = &mut self.request else { return Step::Close };
        let BodyStart { body, leftover, .. } = body_start;
        let route = request.route.clone();
        let first_byte = Duration::from_millis(now.0.saturating_sub(request.since.0));
        let info = StreamInfo::new(request.client, None, request.method.as_str(), &request.target, first_byte)
            .at(request.exchange.server().cloned())
            .holding(request.permits.stream.take());
        let (opening, info) = opening(&route, request.framing, body, &response, info);
        if let Err(source) =
            finish_stream_head(&mut response, request.framing, get_cached_date, route.policy.heads.as_deref())
        {
            return self.fail(Failure::Broken { source });
        }
        let mut unsent = Vec::new();
        headers::write_response(&response, &mut unsent);
        self.handler.admission.answered(response.status.as_u16());
        self.handler.admission.dropped_fields(request.dropped_fields);
        Step::Stream(Box::new(Start { opening, unsent, leftover, route, info }))
    }
}

impl Pending for PendingConnection {
    fn drive(
        &mut self,
        client: &mut dyn Socket,
        mut upstream: Option<&mut dyn Socket>,
        now: Millis,
        input: &mut [u8],
    ) -> Step {
        if self.request.is_none()
            && let Some(step) = self.read_request(client, now, input)
        {
            return step;
        }
        if let Err(source) = buffer_client(client, &mut self.received, input) {
            return self.fail(Failure::ClientGone { source });
        }
        let Some(request) = &mut self.request else { return Step::Close };
        if let Some(upstream) = &mut upstream {
            request.send(&mut **upstream, now);
        }
        let mut heads = 0;
        while heads < HEADS_PER_CALL {
            if let Err(source) = request.flush(client, now) {
                return self.fail(Failure::ClientGone { source });
            }
            let action = match (request.exchange.next(now), &mut upstream) {
                (Action::Read, Some(upstream)) => request.read(&mut **upstream, now, input),
                (action, _) => Some(action),
            };
            match action {
                None => {}
                Some(Action::Forward(head)) => {
                    heads += 1;
                    headers::write_response(&head, &mut request.unsent);
                }
                Some(Action::Connect { .. }) => {
                    if let Some(step) = request.connect(now) {
                        return step;
                    }
                }
                Some(Action::Stream(head, body_start)) => return self.begin(head, body_start, now),
                Some(Action::Page(_)) => {
                    self.outcome = Some(Outcome::Other(request.exchange.take_received()));
                    return Step::HandOff;
                }
                Some(Action::Fail(failure)) => return self.fail(failure),
                Some(Action::Wait | Action::Read) => return Step::Wait,
            }
        }
        match request.exchange.read_blocked(now) {
            Action::Fail(failure) => self.fail(failure),
            _ => Step::Again,
        }
    }

    fn deadline(&self) -> Option<Millis> {
        self.request.as_ref().map_or(self.header_deadline, |request| request.exchange.deadline())
    }

    fn is_idle(&self) -> bool {
        self.request.is_none()
    }

    fn hand_off(self: Box<Self>, client: TcpStream, upstream: Option<TcpStream>) {
        let answer = match self.outcome {
            None => None,
            Some(Outcome::Refused(reason)) => Some(Decided::Refused(reason)),
            Some(Outcome::Failed(failure)) => self.request.map(|request| request.decided(Err(failure))),
            Some(Outcome::Other(bytes)) => {
                self.request.zip(upstream).map(|(request, upstream)| request.decided(Ok((bytes, upstream))))
            }
        };
        self.handler.hand_off(HandedOff::new(client, self.address, self.received, answer));
    }
}

impl RequestPhase {
    /// What Pingora has to know of a request that has been sent.
    fn decided(self, answer: EarlyAnswer) -> Decided {
        // It is no stream.
        let permits = Permits { stream: None, ..self.permits };
        let plan = Plan { route: self.route, carriage: Carriage::Stream, endpoints: Vec::new(), permits };
        Decided::Sent(plan, answer)
    }

    /// Connects to the exchange's server, and sends what can be sent at once: a server on the same machine connects
    /// without delay.
    fn connect(&mut self, now: Millis) -> Option<Step> {
        let server = self.exchange.server()?.address;
        let started = dial::start(server, self.exchange.policy().keep_alive)
            .and_then(|socket| Ok((write(&socket, &self.exchange)?, socket)));
        match started {
            Ok((count, socket)) => {
                if let Some(count) = count {
                    self.exchange.wrote(count, now);
                }
                let writable = self.exchange.need() != Need::Nothing;
                if writable {
                    // Later partial writes must not wait for acknowledgements (Nagle).
                    let _ = socket.set_nodelay(true);
                }
                Some(Step::Upstream { socket, writable })
            }
            Err(error) => {
                self.exchange.connect_failed(connect_error(error));
                None
            }
        }
    }

    /// Sends as much of the request as possible.
    fn send(&mut self, upstream: &mut dyn Socket, now: Millis) {
        while let Need::Write(bytes) = self.exchange.need() {
            match upstream.write(bytes) {
                Ok(0) => return self.exchange.write_failed(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.exchange.wrote(count, now),
                Err(error) if would_block(&error) => return,
                Err(error) => return self.exchange.write_failed(error),
            }
        }
    }

    /// Reads from the upstream; returns what is next if nothing can be read.
    fn read(&mut self, upstream: &mut dyn Socket, now: Millis, input: &mut [u8]) -> Option<Action> {
        match upstream.read(input) {
            Ok(0) => self.exchange.closed(),
            Ok(count) => self.exchange.received(&input[..count]),
            Err(error) if would_block(&error) => return Some(self.exchange.read_blocked(now)),
            Err(error) => self.exchange.read_failed(error),
        }
        None
    }

    /// Writes interim responses.
    fn flush(&mut self, client: &mut dyn Socket, now: Millis) -> Result<(), Box<Error>> {
        let mut progress = false;
        while !self.unsent.is_empty() {
            match client.write(&self.unsent) {
                Ok(count) => {
                    drop(self.unsent.drain(..count));
                    progress = true;
                }
                Err(error) if would_block(&error) => {
                    self.exchange.interim_blocked(progress, now);
                    return Ok(());
                }
                Err(error) => {
                    return Err(Error::because(ErrorType::WriteError, "writing an interim response", error).into_down());
                }
            }
        }
        self.exchange.interim_written();
        Ok(())
    }
}

/// Writes to a socket that may not be connected yet; `None` if it is not.
fn write(mut socket: &TcpStream, exchange: &Exchange<Arc<Endpoint>>) -> io::Result<Option<usize>> {
    let Need::Write(bytes) = exchange.need() else { return Ok(None) };
    match io::Write::write(&mut socket, bytes) {
        Ok(count) => Ok(Some(count)),
        Err(error) if would_block(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// What happens to a request that is not sent from here.
enum NotSent {
    /// It goes to Pingora, with the reason if it is to be refused there.
    HandOff(Option<RefuseReason>),
    /// It is refused here: under a storm of requests that exceed a limit, each costs a read and a write.
    Answer(Vec<u8>),
}

/// Prepares the request in `received` for sending.
///
/// # Errors
/// When it is not sent from here.
fn start_request(
    received: &[u8],
    peer: SocketAddr,
    handler: &HandlerShared,
    now: Millis,
) -> Result<Box<RequestPhase>, NotSent> {
    const UNUSUAL: NotSent = NotSent::HandOff(None);
    let client_rules = handler.admission.client_rules();
    let WholeRequest { head: mut request, body, dropped_fields } =
        WholeRequest::parse(received, &client_rules.policy.head).ok_or(UNUSUAL)?;
    let trusted_proxies = &client_rules.trusted_proxies;
    let client = trusted_proxies.client(Some(peer), &request.headers);
    let Plan { route, endpoints, permits, .. } = match handler.admission.admit(&mut request, &client, now) {
        Decision::Serve(plan) => plan,
        Decision::Refuse(reason @ RefuseReason::Limited(limit, answer)) => {
            let (response, bytes) = answer.http1(&request, &limit.into()).map_err(|_| UNUSUAL)?;
            handler.admission.refused(reason.as_str(), &request, &client, response);
            handler.admission.dropped_fields(dropped_fields);
            return Err(NotSent::Answer(bytes));
        }
        Decision::Refuse(reason) => return Err(NotSent::HandOff(Some(reason))),
        Decision::Leave => return Err(UNUSUAL),
    };
    let hop = ClientHop { address: Some(peer.ip()), tls: false, trusted_proxies };
    let (version, method) = (request.version, request.method.clone());
    let framing = stream_framing(version);
    let target = String::from_utf8_lossy(request.raw_path()).into();
    let rules = route.policy.heads.as_deref();
    let upstream = upstream_request(request, true, !body.is_empty(), None, &hop, rules).map_err(|_| UNUSUAL)?;
    let mut wire = request_wire(&upstream).map_err(|_| UNUSUAL)?;
    wire.extend_from_slice(&body);
    let rules = Rules {
        policy: route.policy.clone(),
        may_be_stream: true,
        is_head: false,
        takes_interim: takes_interim(version),
        is_repeatable: false,
    };
    Ok(Box::new(RequestPhase {
        exchange: Exchange::new(rules, endpoints, Upload::whole(wire)),
        route,
        client: client.address,
        target,
        method,
        framing,
        since: now,
        dropped_fields,
        unsent: Vec::new(),
        permits,
    }))
}

/// Detects that the client has closed the connection; buffers what it sends, for the next reader.
fn buffer_client(client: &mut dyn Socket, received: &mut Vec<u8>, input: &mut [u8]) -> Result<(), Box<Error>> {
    while received.len() < MAX_PIPELINED_BYTES {
        match client.read(input) {
            Ok(0) => return Err(Error::new(ErrorType::ConnectionClosed).into_down()),
            Ok(count) => received.extend_from_slice(&input[..count]),
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => {
                return Err(Error::because(ErrorType::ReadError, "reading from the client", error).into_down());
            }
        }
    }
    // The end of the connection cannot be read while earlier bytes are left unread.
    if client.peer_has_closed() {
        return Err(Error::new(ErrorType::ConnectionClosed).into_down());
    }
    Ok(())
}
