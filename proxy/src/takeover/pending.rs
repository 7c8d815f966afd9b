//! A connection that a reactor has accepted, until it is a stream or is handed off to Pingora.
//!
//! A plain request that arrives whole and goes to plain servers is sent from here, and waits for its response in a
//! kilobyte. If the response is an event stream, the stream starts here. Everything else is handed off to Pingora, with
//! the bytes read from both sides: requests that are not for streams, unusual requests, other responses, failures.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pingora::ErrorType;
use pingora::http::{Method, ResponseHeader, Version};
use pingora::prelude::Error;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v1::client::http_req_header_to_wire;

use super::answer::{BodyStart, HeadKind};
use super::client_connection::MAX_PIPELINED_BYTES;
use super::fetch::{ExchangeStep, ReactorExchange};
use super::hand_over;
use super::handoff::{Decided, EarlyAnswer, HandedOff, HandlerShared, RequestHandler};
use super::plan::{Carriage, Decision, Permits, Plan, RefuseReason};
use super::whole_request::WholeRequest;
use crate::driver::{ConnectionHandler, Pending, Socket, Start, Step, StreamInfo, would_block};
use crate::failure::Failure;
use crate::headers;
use crate::stream::{Framing, Millis};

/// Response heads read in one call, before the connection yields to others.
const HEADS_PER_CALL: u32 = 16;

/// A connection from its accept until it is a stream, is handed off or closes.
pub(super) struct PendingConnection {
    address: SocketAddr,
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
    exchange: ReactorExchange,
    method: Method,
    target: Box<str>,
    framing: Framing,
    since: Millis,
    dropped_fields: usize,
    /// Interim responses not yet written to the client.
    unsent: Vec<u8>,
    /// The deadline for the client to read some of them.
    write_due: Option<Millis>,
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
        let header_deadline = handler.policy.header.map(|limit| now.after(limit));
        Self { address, handler, header_deadline, received: Vec::new(), request: None, outcome: None }
    }

    /// Reads the first bytes, which decide between this module and Pingora.
    fn read_request(&mut self, client: &mut dyn Socket, now: Millis, input: &mut [u8]) -> Option<Step> {
        match client.read(input) {
            Err(error) if would_block(&error) && self.header_deadline.is_none_or(|until| now < until) => {
                Some(Step::Wait)
            }
            Ok(count) if count > 0 => {
                self.received.extend_from_slice(&input[..count]);
                match start_request(&self.received, self.address, &self.handler, now) {
                    Ok(request) => {
                        self.request = Some(request);
                        None
                    }
                    Err(refused) => {
                        self.outcome = refused.map(Outcome::Refused);
                        Some(Step::HandOff)
                    }
                }
            }
            _ => Some(Step::Close),
        }
    }

    fn fail(&mut self, failure: Failure) -> Step {
        let Some(request) = &self.request else { return Step::Close };
        // The client has closed the connection, or has part of an interim response, after which no other response can
        // be sent.
        if matches!(failure, Failure::ClientGone { .. }) || !request.unsent.is_empty() {
            request.exchange.route().failed(&failure);
            self.handler.admission.answered(0);
            return Step::Close;
        }
        self.outcome = Some(Outcome::Failed(failure));
        Step::HandOff
    }

    /// Handles the final response head, once all interim responses have been written.
    fn on_final_head(&mut self, mut response: Box<ResponseHeader>, now: Millis) -> Step {
        let Some(request) = &mut self.request else { return Step::Close };
        let reader = request.exchange.take_reader();
        if !headers::is_event_stream(&response) {
            self.outcome = Some(Outcome::Other(reader.into_bytes()));
            return Step::HandOff;
        }
        let BodyStart { body, leftover, .. } = match BodyStart::of(&response, reader, false, true) {
            Ok(body_start) => body_start,
            Err(failure) => return self.fail(failure),
        };
        let route = request.exchange.route().clone();
        let opening = hand_over::opening(&route, request.framing, body, &response);
        if let Err(source) = finish_head(&mut response, request.framing) {
            return self.fail(Failure::Broken { source });
        }
        let mut unsent = Vec::new();
        headers::write_response(&response, &mut unsent);
        let first_byte = Duration::from_millis(now.0.saturating_sub(request.since.0));
        let info = StreamInfo::new(Some(self.address), None, request.method.as_str(), &request.target, first_byte)
            .at(request.exchange.server().cloned());
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
        for _ in 0..HEADS_PER_CALL {
            let Some(request) = &mut self.request else { return Step::Close };
            match request.flush(client, now) {
                Ok(true) => {}
                Ok(false) => return request.overdue(now).map_or(Step::Wait, |failure| self.fail(failure)),
                Err(source) => return self.fail(Failure::ClientGone { source }),
            }
            let upstream: Option<&mut dyn Socket> = match &mut upstream {
                Some(socket) => Some(&mut **socket),
                None => None,
            };
            match request.exchange.drive(upstream, now, input) {
                ExchangeStep::Wait => return Step::Wait,
                ExchangeStep::Connected(socket, writable) => return Step::Upstream { socket, writable },
                ExchangeStep::Failed(failure) => return self.fail(failure),
                ExchangeStep::Head(head) => match HeadKind::of(&head) {
                    HeadKind::Continue => {}
                    HeadKind::Switching => return self.fail(Failure::Switched),
                    HeadKind::Interim => request.interim(head),
                    HeadKind::Final => return self.on_final_head(head, now),
                },
            }
        }
        let Some(request) = &mut self.request else { return Step::Close };
        match (request.flush(client, now), request.overdue(now)) {
            (Err(source), _) => self.fail(Failure::ClientGone { source }),
            (Ok(_), Some(failure)) => self.fail(failure),
            (Ok(_), None) => Step::Again,
        }
    }

    fn deadline(&self) -> Option<Millis> {
        self.request.as_ref().map_or(self.header_deadline, |request| request.due())
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
        let (route, permits) = (self.exchange.route().clone(), self.permits);
        let plan = Plan { route, carriage: Carriage::Stream, endpoints: Vec::new(), permits };
        Decided::Sent(plan, answer)
    }

    /// Queues an interim response, such as 103. HTTP/1.0, whose streams are plain, has none (RFC 9110 §15.2).
    fn interim(&mut self, mut head: Box<ResponseHeader>) {
        if self.framing == Framing::Chunked {
            headers::interim_response(&mut head);
            headers::write_response(&head, &mut self.unsent);
        }
    }

    /// The next deadline.
    fn due(&self) -> Option<Millis> {
        [self.exchange.due(), self.write_due].into_iter().flatten().min()
    }

    /// The failure of an expired deadline.
    fn overdue(&self, now: Millis) -> Option<Failure> {
        let limit = self.exchange.route().policy.timeouts.write.unwrap_or_default();
        let write = self.write_due.is_some_and(|due| due <= now).then_some(Failure::WriteTimeout { limit });
        write.or_else(|| self.exchange.overdue(now))
    }

    /// Writes interim responses; returns whether all have been written.
    fn flush(&mut self, client: &mut dyn Socket, now: Millis) -> Result<bool, Box<Error>> {
        while !self.unsent.is_empty() {
            match client.write(&self.unsent) {
                Ok(count) => {
                    drop(self.unsent.drain(..count));
                    self.write_due = None;
                }
                Err(error) if would_block(&error) => {
                    let limit = self.exchange.route().policy.timeouts.write;
                    self.write_due = self.write_due.or(limit.map(|limit| now.after(limit)));
                    return Ok(false);
                }
                Err(error) => {
                    return Err(Error::because(ErrorType::WriteError, "writing an interim response", error).into_down());
                }
            }
        }
        Ok(true)
    }
}

/// Prepares the request in `received` for sending.
///
/// # Errors
/// When it goes to Pingora: with the reason if it is to be refused there.
fn start_request(
    received: &[u8],
    client: SocketAddr,
    handler: &HandlerShared,
    now: Millis,
) -> Result<Box<RequestPhase>, Option<RefuseReason>> {
    let WholeRequest { head: mut request, body, dropped_fields } =
        WholeRequest::parse(received, &handler.policy.head).ok_or(None)?;
    let Plan { route, endpoints, permits, .. } = match handler.admission.admit(&mut request) {
        Decision::Serve(plan) => plan,
        Decision::Refuse(reason) => return Err(Some(reason)),
        Decision::Leave => return Err(None),
    };
    let mut upstream_request = headers::stream_request(&request, !body.is_empty(), None).map_err(|_| None)?;
    headers::set_forwarded(&mut upstream_request, Some(client.ip()), false, handler.admission.trusted_proxies())
        .map_err(|_| None)?;
    let mut wire = Vec::from(http_req_header_to_wire(&upstream_request).ok_or(None)?);
    wire.extend_from_slice(&body);
    let framing = if request.version == Version::HTTP_11 { Framing::Chunked } else { Framing::Plain };
    Ok(Box::new(RequestPhase {
        exchange: ReactorExchange::new(route, endpoints, wire),
        target: String::from_utf8_lossy(request.raw_path()).into(),
        method: request.method.clone(),
        framing,
        since: now,
        dropped_fields,
        unsent: Vec::new(),
        write_due: None,
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

/// Completes a stream's head for the client. "An origin server with a clock … MUST generate a Date header field in all
/// 2xx" responses, and a recipient that forwards a response without it adds it (RFC 9110 §6.6.1).
fn finish_head(response: &mut ResponseHeader, framing: Framing) -> pingora::Result<()> {
    headers::stream_response(response, framing == Framing::Chunked)?;
    if !response.headers.contains_key("date") {
        response.insert_header("Date", get_cached_date())?;
    }
    response.insert_header("Connection", "close")
}
