//! Where clients of a reactor's listener are received, and where those go that Pingora serves.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::http::RequestHeader;
use pingora::proxy::Session;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client_policy::ClientPolicy;
use crate::driver::{ClientConnection, Route};
use crate::failure::Failure;
use crate::headers::TrustedProxies;

/// Decides on requests that come in over a reactor's listener. Called on the reactor's thread: it must not block.
pub(crate) trait Admission: Send + Sync {
    /// The way of a request that asks for a stream and can be sent at once to plain servers; `None` leaves it to Pingora
    /// as it came. Brings the head into the form in which it is passed on.
    fn admit(&self, request: &mut RequestHeader) -> Option<Admitted>;

    /// Whose claims about their clients are passed on.
    fn trusted_proxies(&self) -> &TrustedProxies;

    /// A request that was admitted is over for Pingora: it is answered with a stream, or, with the status 0, not at all.
    fn answered(&self, status: u16);

    /// Fields of a request that was admitted have not been passed on.
    fn dropped_fields(&self, count: usize);

    /// Counts a request that was not admitted, until Pingora does.
    fn in_flight(&self) -> InFlight;
}

/// The way of a request.
pub(crate) struct Admitted {
    /// Whose rules and books are its own.
    pub(crate) route: Arc<Route>,
    /// In the order to try them.
    pub(crate) servers: Vec<SocketAddr>,
    /// Kept until it is a stream or Pingora has it.
    pub(crate) in_flight: InFlight,
}

/// Counts a request until it is done with. A stream is done with when it has begun.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// One more.
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

/// Receives the clients of listeners.
pub(super) struct HandlerShared {
    pub(super) admission: Arc<dyn Admission>,
    pub(super) policy: ClientPolicy,
    pub(super) handed_off: UnboundedSender<Handoff>,
}

/// What comes from the reactors to those who serve with Pingora.
pub(crate) enum Handoff {
    /// A client, and that what it has request for counts as in flight.
    Client(HandedOff, InFlight),
    /// Nobody new is let in any more. Those who are in may still leave.
    Closed,
}

/// A client that Pingora serves.
pub(crate) struct HandedOff {
    client: TcpStream,
    address: SocketAddr,
    received: Vec<u8>,
    answer: Option<EarlyAnswer>,
}

/// What has become of a request before Pingora had it: what has been read of the upstream's answer with the connection that
/// the rest comes on, or why there is none.
pub(crate) type EarlyAnswer = Result<(Vec<u8>, TcpStream), Failure>;

/// What reactors meet clients with.
#[derive(Clone)]
pub(crate) struct RequestHandler(pub(super) Arc<HandlerShared>);

impl RequestHandler {
    /// Admits streams as `admission` says, of clients within the limits of `policy`. Clients with anything else come out of the queue, for Pingora to serve.
    pub(crate) fn new(admission: Arc<dyn Admission>, policy: ClientPolicy) -> (Self, UnboundedReceiver<Handoff>) {
        let (handed_off, queue) = unbounded_channel();
        (Self(Arc::new(HandlerShared { admission, policy, handed_off })), queue)
    }

    /// Tells those who serve with Pingora that nobody new is let in any more.
    pub(crate) fn close(&self) {
        // Nobody listens any more when the process ends.
        let _ = self.0.handed_off.send(Handoff::Closed);
    }
}

impl HandlerShared {
    /// Leaves a client to Pingora. What it has request for counts as in flight from now on, if it has not been counted yet.
    pub(super) fn hand_off(&self, handed_off: HandedOff, in_flight: Option<InFlight>) {
        let in_flight = in_flight.unwrap_or_else(|| self.admission.in_flight());
        // Nobody listens any more when the process ends: the connection is closed.
        let _ = self.handed_off.send(Handoff::Client(handed_off, in_flight));
    }
}

impl HandedOff {
    pub(super) fn new(client: TcpStream, address: SocketAddr, received: Vec<u8>, answer: Option<EarlyAnswer>) -> Self {
        Self { client, address, received, answer }
    }

    /// The connection as Pingora takes it, everything that has been read put back. Has to be called on a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub(crate) fn into_connection(self) -> io::Result<ClientConnection> {
        let client = tokio::net::TcpStream::from_std(self.client)?;
        let extension = self.answer.map(|answer| Box::new(answer) as Box<dyn Any + Send>);
        Ok(ClientConnection::tcp(self.received, client, self.address, extension))
    }
}

/// A request as Pingora has read it, together with what had become of it before. Only [`PriorOutcome::take`] makes one, and
/// takes it off the connection: it is the first thing that is done with a request, so that whoever answers the request
/// in whatever way cannot leave the answer for the next request on the connection.
pub(crate) struct PriorOutcome(Option<EarlyAnswer>);

impl PriorOutcome {
    /// Takes what a reactor has left for the request that `session` has just read.
    pub(crate) fn take(session: &Session) -> Self {
        let take = || {
            let connection: &ClientConnection = session.stream()?.as_any().downcast_ref()?;
            connection.take_extension()?.downcast().ok().map(|answer| *answer)
        };
        Self(take())
    }

    /// The answer of the upstream, or why there is none; `None` where nobody has been asked yet.
    pub(crate) fn into_answer(self) -> Option<EarlyAnswer> {
        self.0
    }
}
