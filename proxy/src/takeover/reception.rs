//! Where clients of a reactor's listener are received, and where those go that Pingora serves.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::proxy::Session;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::caller::Caller;
use crate::failure::Failure;
use crate::pump::{Candidate, Reception, Rewound, Route};
use crate::stream::Millis;

/// Decides on requests that come in over a reactor's listener. Called on the reactor's thread: it must not block.
pub(crate) trait Admission: Send + Sync {
    /// The way of a request that asks for a stream and can be sent at once to plain servers; `None` leaves it to Pingora
    /// as it came. Brings the head into the form in which it is passed on.
    fn admit(&self, request: &mut RequestHeader) -> Option<Admitted>;

    /// A request that was admitted is over for Pingora: it is answered with a stream, or, with the status 0, not at all.
    fn answered(&self, status: u16);
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
pub(super) struct Desk {
    pub(super) admission: Arc<dyn Admission>,
    pub(super) declined: UnboundedSender<Declined>,
}

/// A client that Pingora serves.
pub(crate) struct Declined {
    client: TcpStream,
    address: SocketAddr,
    held: Vec<u8>,
    note: Option<Noted>,
}

/// What has become of the client's first request already.
pub(super) struct Noted {
    /// What has been read of the upstream's answer, and the connection that the rest comes on.
    pub(super) answer: Result<(Vec<u8>, TcpStream), Failure>,
    pub(super) in_flight: InFlight,
}

/// What reactors meet clients with.
#[derive(Clone)]
pub(crate) struct FrontDesk(Arc<Desk>);

impl FrontDesk {
    /// Admits streams as `admission` says. Clients with anything else come out of the queue, for Pingora to serve.
    pub(crate) fn new(admission: Arc<dyn Admission>) -> (Self, UnboundedReceiver<Declined>) {
        let (declined, queue) = unbounded_channel();
        (Self(Arc::new(Desk { admission, declined })), queue)
    }
}

impl Reception for FrontDesk {
    fn meet(&self, client: SocketAddr, now: Millis) -> Box<dyn Candidate> {
        Box::new(Caller::new(client, self.0.clone(), now))
    }
}

impl Desk {
    pub(super) fn decline(&self, client: TcpStream, address: SocketAddr, held: Vec<u8>, note: Option<Noted>) {
        // Nobody listens any more when the process ends: the connection is closed.
        let _ = self.declined.send(Declined { client, address, held, note });
    }
}

impl Declined {
    /// The connection as Pingora takes it, everything that has been read put back. Has to be called on a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        let client = tokio::net::TcpStream::from_std(self.client)?;
        let note = self.note.map(|noted| Box::new(noted) as Box<dyn Any + Send>);
        Ok(Box::new(Rewound::client(self.held, client, self.address, note)))
    }
}

/// What has become of this request before Pingora had it; once.
pub(super) fn noted(session: &Session) -> Option<Noted> {
    let connection: &Rewound<tokio::net::TcpStream> = session.stream()?.as_any().downcast_ref()?;
    connection.take_note()?.downcast().ok().map(|noted| *noted)
}
