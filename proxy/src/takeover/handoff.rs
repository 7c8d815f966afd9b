//! The handler of a reactor's listeners, and the queue of the connections that it hands off to Pingora.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use pingora::http::RequestHeader;
use pingora::proxy::Session;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client_connection::ClientConnection;
use super::client_policy::ClientRules;
use super::plan::{Decision, InFlight, Plan, RefuseReason};
use crate::failure::Failure;
use crate::headers::Client;
use crate::stream::Millis;
use crate::wire::proxy_protocol::{ProxyProtocol, Violation};

/// Decides on the requests of a reactor's listener. Called on the reactor's thread, so it must not block.
pub(crate) trait Admission: Send + Sync {
    /// Decides whether a reactor sends a request, and where. Normalizes the head for forwarding; a request that is left
    /// to Pingora goes there as it was received.
    fn admit(&self, request: &mut RequestHeader, client: &Client, now: Millis) -> Decision;

    /// The limits in force, and the peers whose forwarding fields are trusted.
    fn client_rules(&self) -> Arc<ClientRules>;

    /// Counts an admitted request that does not go to Pingora: it was answered with a stream, or, for status 0, not at
    /// all.
    fn answered(&self, status: u16);

    /// Counts and reports a request that the reactor has refused, with the status and the length of the response's body.
    fn refused(&self, reason: &'static str, request: &RequestHeader, client: &Client, response: (u16, usize));

    /// Counts and reports a connection of `peer` that is closed because of its PROXY protocol header.
    fn violated(&self, violation: Violation, peer: SocketAddr);

    /// Counts fields of an admitted request that were not forwarded.
    fn dropped_fields(&self, count: usize);

    /// Counts a request that goes to Pingora, until Pingora counts it.
    fn in_flight(&self) -> InFlight;
}

/// The state of a [`RequestHandler`], shared by its connections.
pub(super) struct HandlerShared {
    pub(super) admission: Arc<dyn Admission>,
    /// Whether connections may begin with HTTP/2.
    pub(super) h2c: bool,
    pub(super) handed_off: UnboundedSender<Handoff>,
    /// Of the listener.
    pub(super) proxy_protocol: ProxyProtocol,
}

/// A message from the reactors to the service that serves with Pingora.
pub(crate) enum Handoff {
    /// A connection, and the count of its request as in flight.
    Client(HandedOff, Option<InFlight>),
    /// The listeners are closed. Connections that were accepted before may still be handed off.
    Closed,
}

/// A connection that Pingora serves.
pub(crate) struct HandedOff {
    client: TcpStream,
    address: SocketAddr,
    received: Vec<u8>,
    decided: Option<Decided>,
    h2c: bool,
}

/// What a reactor has decided for a request before it handed the request off. Pingora does not decide again: the
/// configuration may have changed, and a limit may count each decision.
pub(crate) enum Decided {
    /// The request is refused.
    Refused(RefuseReason),
    /// The request has been sent by this plan, with this outcome.
    Sent(Plan, EarlyAnswer),
}

/// The outcome of a request that a reactor has sent: the bytes read of the upstream's response and its connection, or
/// the failure.
pub(crate) type EarlyAnswer = Result<(Vec<u8>, TcpStream), Failure>;

/// The handler that reactors call for their connections.
#[derive(Clone)]
pub(crate) struct RequestHandler(pub(super) Arc<HandlerShared>);

impl RequestHandler {
    /// Admits streams by `admission`. All other connections go to the returned queue, for Pingora to serve.
    pub(crate) fn new(admission: Arc<dyn Admission>) -> (Self, UnboundedReceiver<Handoff>) {
        let (handed_off, queue) = unbounded_channel();
        let proxy_protocol = ProxyProtocol::Off;
        (Self(Arc::new(HandlerShared { admission, h2c: false, handed_off, proxy_protocol })), queue)
    }

    /// The same, with the same queue, for connections that may begin with HTTP/2 or with a header of the PROXY protocol.
    pub(crate) fn of_listener(&self, h2c: bool, proxy_protocol: ProxyProtocol) -> Self {
        let (admission, handed_off) = (self.0.admission.clone(), self.0.handed_off.clone());
        Self(Arc::new(HandlerShared { admission, h2c, handed_off, proxy_protocol }))
    }

    /// Reports to the service of the queue that the listeners are closed.
    pub(crate) fn close(&self) {
        // The receiver is gone only when the process exits.
        let _ = self.0.handed_off.send(Handoff::Closed);
    }
}

impl HandlerShared {
    /// Hands a connection off to Pingora, and counts its request as in flight on the way, unless its plan does.
    pub(super) fn hand_off(&self, handed_off: HandedOff) {
        let handed_off = HandedOff { h2c: self.h2c, ..handed_off };
        let has_plan = matches!(handed_off.decided, Some(Decided::Sent(..)));
        let in_flight = (!has_plan).then(|| self.admission.in_flight());
        // The receiver is gone only when the process exits: the connection is closed.
        let _ = self.handed_off.send(Handoff::Client(handed_off, in_flight));
    }
}

impl HandedOff {
    pub(super) fn new(client: TcpStream, address: SocketAddr, received: Vec<u8>, decided: Option<Decided>) -> Self {
        Self { client, address, received, decided, h2c: false }
    }

    /// Whether the connection may begin with HTTP/2.
    pub(crate) fn h2c(&self) -> bool {
        self.h2c
    }

    /// Converts it for Pingora, with the bytes read so far in front. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub(crate) fn into_connection(self) -> io::Result<ClientConnection> {
        let client = tokio::net::TcpStream::from_std(self.client)?;
        let extension = self.decided.map(|decided| Box::new(decided) as Box<dyn Any + Send>);
        Ok(ClientConnection::tcp(self.received, client, self.address, extension))
    }
}

/// What a reactor did with a request before it handed the request off. Only [`PriorOutcome::take`] creates one, and
/// removes it from the connection. It is called before anything else handles the request, so that an early answer
/// cannot be left for the next request on the connection.
pub(crate) struct PriorOutcome(Option<Decided>);

impl PriorOutcome {
    /// Takes the outcome for the request that `session` has just read.
    pub(crate) fn take(session: &Session) -> Self {
        let take = || {
            let connection: &ClientConnection = session.stream()?.as_any().downcast_ref()?;
            connection.take_extension()?.downcast().ok().map(|decided| *decided)
        };
        Self(take())
    }

    /// The reactor's decision; `None` if there is none yet.
    pub(crate) fn into_decided(self) -> Option<Decided> {
        self.0
    }
}
