//! The handler of a reactor's listeners, and the queue of the connections that it hands off to Pingora.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::http::RequestHeader;
use pingora::proxy::Session;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client_connection::ClientConnection;
use super::client_policy::ClientPolicy;
use crate::driver::Route;
use crate::failure::Failure;
use crate::headers::TrustedProxies;

/// Decides on the requests of a reactor's listener. Called on the reactor's thread, so it must not block.
pub(crate) trait Admission: Send + Sync {
    /// Routes a request for a stream that can be sent at once to plain servers; `None` leaves it to Pingora as it was
    /// received. Normalizes the head for forwarding.
    fn admit(&self, request: &mut RequestHeader) -> Option<Admitted>;

    /// The peers whose forwarding fields are trusted.
    fn trusted_proxies(&self) -> &TrustedProxies;

    /// Counts an admitted request that does not go to Pingora: it was answered with a stream, or, for status 0, not at
    /// all.
    fn answered(&self, status: u16);

    /// Counts fields of an admitted request that were not forwarded.
    fn dropped_fields(&self, count: usize);

    /// Counts a request that was not admitted, until Pingora counts it.
    fn in_flight(&self) -> InFlight;
}

/// The route and the servers of a request.
pub(crate) struct Admitted {
    /// The route whose policy applies and that counts the stream.
    pub(crate) route: Arc<Route>,
    /// In the order to try them.
    pub(crate) servers: Vec<SocketAddr>,
    /// Held until the request is a stream or has been handed off.
    pub(crate) in_flight: InFlight,
}

/// Counts a request in flight until it is dropped: at the end of the response, or at the start of a stream.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// Increments the counter.
    pub(crate) fn enter(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state of a [`RequestHandler`], shared by its connections.
pub(super) struct HandlerShared {
    pub(super) admission: Arc<dyn Admission>,
    pub(super) policy: ClientPolicy,
    pub(super) handed_off: UnboundedSender<Handoff>,
}

/// A message from the reactors to the service that serves with Pingora.
pub(crate) enum Handoff {
    /// A connection, and the count of its request as in flight.
    Client(HandedOff, InFlight),
    /// The listeners are closed. Connections that were accepted before may still be handed off.
    Closed,
}

/// A connection that Pingora serves.
pub(crate) struct HandedOff {
    client: TcpStream,
    address: SocketAddr,
    received: Vec<u8>,
    answer: Option<EarlyAnswer>,
}

/// The outcome of a request that a reactor has sent: the bytes read of the upstream's response and its connection, or
/// the failure.
pub(crate) type EarlyAnswer = Result<(Vec<u8>, TcpStream), Failure>;

/// The handler that reactors call for their connections.
#[derive(Clone)]
pub(crate) struct RequestHandler(pub(super) Arc<HandlerShared>);

impl RequestHandler {
    /// Admits streams by `admission`, for clients within the limits of `policy`. All other connections go to the
    /// returned queue, for Pingora to serve.
    pub(crate) fn new(admission: Arc<dyn Admission>, policy: ClientPolicy) -> (Self, UnboundedReceiver<Handoff>) {
        let (handed_off, queue) = unbounded_channel();
        (Self(Arc::new(HandlerShared { admission, policy, handed_off })), queue)
    }

    /// Reports to the service of the queue that the listeners are closed.
    pub(crate) fn close(&self) {
        // The receiver is gone only when the process exits.
        let _ = self.0.handed_off.send(Handoff::Closed);
    }
}

impl HandlerShared {
    /// Hands a connection off to Pingora. Counts its request as in flight, unless it is counted already.
    pub(super) fn hand_off(&self, handed_off: HandedOff, in_flight: Option<InFlight>) {
        let in_flight = in_flight.unwrap_or_else(|| self.admission.in_flight());
        // The receiver is gone only when the process exits: the connection is closed.
        let _ = self.handed_off.send(Handoff::Client(handed_off, in_flight));
    }
}

impl HandedOff {
    pub(super) fn new(client: TcpStream, address: SocketAddr, received: Vec<u8>, answer: Option<EarlyAnswer>) -> Self {
        Self { client, address, received, answer }
    }

    /// Converts it for Pingora, with the bytes read so far in front. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub(crate) fn into_connection(self) -> io::Result<ClientConnection> {
        let client = tokio::net::TcpStream::from_std(self.client)?;
        let extension = self.answer.map(|answer| Box::new(answer) as Box<dyn Any + Send>);
        Ok(ClientConnection::tcp(self.received, client, self.address, extension))
    }
}

/// What a reactor did with a request before it handed the request off. Only [`PriorOutcome::take`] creates one, and
/// removes it from the connection. It is called before anything else handles the request, so that an early answer
/// cannot be left for the next request on the connection.
pub(crate) struct PriorOutcome(Option<EarlyAnswer>);

impl PriorOutcome {
    /// Takes the outcome for the request that `session` has just read.
    pub(crate) fn take(session: &Session) -> Self {
        let take = || {
            let connection: &ClientConnection = session.stream()?.as_any().downcast_ref()?;
            connection.take_extension()?.downcast().ok().map(|answer| *answer)
        };
        Self(take())
    }

    /// The upstream's response or the failure; `None` if the request has not been sent.
    pub(crate) fn into_answer(self) -> Option<EarlyAnswer> {
        self.0
    }
}
