//! The plugin: takes event streams over from inside any Pingora proxy, with one call in one hook.
//!
//! Called from [`ProxyHttp::proxy_upstream_filter`](pingora::proxy::ProxyHttp::proxy_upstream_filter), it connects,
//! reads exactly one response head, and then decides. An event stream is handed to a driver in [`crate::driver`], and the
//! sessions, with everything they hold, are dropped; any other answer is passed on whole over the client's session.
//! Request filters, downstream modules and `logging` stay as they are: `logging` runs when the stream begins, and
//! [`Observer::ended`](crate::driver::Observer::ended) when it ends.
//!
//! For listeners of its own, `reception`, `caller` and `fetch` do the same on a reactor's thread, without Pingora, where a
//! request is as plain as most are; see `docs/decisions/0005-begin-plain-streams-in-the-reactor.md`.

mod answer;
mod connection;
mod dial;
mod exchange;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hand_over;
mod handoff;
mod head_reader;
mod linger;
mod pending;
mod refuse;
mod relay;
mod stand_in;
mod upload;
mod whole_request;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::Method;
use pingora::prelude::{HttpPeer, Result};
use pingora::proxy::Session;

use crate::driver::{BoundListener, Drivers, Registry, Route, StreamInfo};
use crate::headers;

pub use crate::failure::Failure;
pub use crate::headers::accepts_event_stream;

use connection::Connection;
use exchange::{Answer, OtherAnswer};

pub(crate) use handoff::{Admission, Admitted, HandedOff, Handoff, InFlight, RequestHandler};

/// Takes requests over. One per process is enough; share it between the services of a proxy.
pub struct Takeover {
    connector: TransportConnector,
    drivers: Drivers,
}

impl Default for Takeover {
    fn default() -> Self {
        Self::new(Drivers::default())
    }
}

impl Takeover {
    /// Hands streams to these drivers.
    pub fn new(drivers: Drivers) -> Self {
        // Every connection carries one stream to its end: there is none to pool.
        Self { connector: TransportConnector::new(Some(ConnectorOptions::new(1))), drivers }
    }

    /// The streams that are running, and the way to drain them.
    pub fn registry(&self) -> &Arc<Registry> {
        self.drivers.registry()
    }

    /// Whether a request can be taken over at all: one over HTTP/1 or HTTP/2 that has a body to answer with and does not
    /// ask for another protocol. What is not, HttpProxy carries as well as ever.
    pub fn can_take(session: &Session) -> bool {
        (session.as_http1().is_some() || session.as_http2().is_some())
            && session.req_header().method != Method::HEAD
            && !session.is_upgrade_req()
    }

    /// Sends the request to the first of `peers` that can be connected to, and carries the answer to its end.
    ///
    /// Returns what `proxy_upstream_filter` should: `Ok(true)` when the request cannot be taken over
    /// (see [`Takeover::can_take`]) and HttpProxy should go on with it, `Ok(false)` when it has been answered. A failure
    /// before the response head is answered with 502 or 504 and a body that tells which, and is told to the route's
    /// observer.
    ///
    /// # Errors
    /// When the client's connection fails while a response is being written to it.
    pub async fn take_over(&self, session: &mut Session, peers: &[HttpPeer], route: &Arc<Route>) -> Result<bool> {
        if !Self::can_take(session) {
            return Ok(true);
        }
        let started = Instant::now();
        // What a client sends behind its request waits for its turn instead of ending the request.
        session.downstream_session.set_pipelining_enabled(true);
        let client = session.client_addr().and_then(|address| address.as_inet()).copied();
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let has_body = !session.is_body_empty();
        let mut request = headers::stream_request(session.req_header(), has_body)?;
        headers::add_forwarded(&mut request, client.map(|address| address.ip()), tls)?;

        let timeouts = &route.policy.timeouts;
        let answer = Box::pin(exchange::exchange(&self.connector, session, peers, request, timeouts)).await;
        match answer {
            Ok(Answer::Stream(stream)) => {
                let request = session.req_header();
                let target = String::from_utf8_lossy(request.raw_path());
                let info = StreamInfo::new(client, stream.peer, request.method.as_str(), &target, started.elapsed());
                Box::pin(hand_over::hand_over(session, *stream, route.clone(), &self.drivers, info)).await?;
            }
            Ok(Answer::Other(upstream)) => Self::pass_on(session, *upstream, route).await?,
            Err(failure) => Self::refuse(session, failure, route).await?,
        }
        Ok(false)
    }

    /// Carries on with a request that has been answered, by no event stream, before Pingora had it. Returns whether it was
    /// one.
    ///
    /// # Errors
    /// When the client's connection fails while a response is being written to it.
    pub(crate) async fn resume(&self, session: &mut Session, route: &Arc<Route>) -> Result<bool> {
        let Some(answer) = handoff::early_answer(session) else { return Ok(false) };
        // The upstream has the request, and it is at hand whole: reading it waits for nothing.
        while session.downstream_session.read_request_body().await?.is_some() {}
        let answer = match answer {
            Ok((bytes, upstream)) => match tokio::net::TcpStream::from_std(upstream) {
                Ok(upstream) => exchange::other_answer(bytes, Connection::Tcp(upstream)).await,
                Err(error) => Err(Failure::Broken { source: dial::connect_error(error) }),
            },
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(upstream) => Self::pass_on(session, upstream, route).await?,
            Err(failure) => Self::refuse(session, failure, route).await?,
        }
        Ok(true)
    }

    /// Makes a listener for plain TCP the reactors' own: what asks for a stream begins there, without a task and without
    /// Pingora's sessions.
    ///
    /// # Errors
    /// When there is no reactor.
    pub(crate) fn listen(&self, listener: TcpListener, handler: &RequestHandler) -> io::Result<BoundListener> {
        self.drivers.listen(listener, Arc::new(handler.clone()))
    }

    async fn pass_on(session: &mut Session, answer: OtherAnswer, route: &Route) -> Result<()> {
        Box::pin(relay::relay(session, answer, &route.policy.timeouts)).await?;
        linger::linger(session).await;
        Ok(())
    }

    async fn refuse(session: &mut Session, failure: Failure, route: &Route) -> Result<()> {
        route.failed(&failure);
        refuse::answer(session, failure).await?;
        linger::linger(session).await;
        Ok(())
    }
}
