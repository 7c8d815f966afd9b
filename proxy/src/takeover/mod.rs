//! The plugin: takes event streams over from inside any Pingora proxy, with one call in one hook.
//!
//! Called from [`ProxyHttp::proxy_upstream_filter`](pingora::proxy::ProxyHttp::proxy_upstream_filter), it connects,
//! reads exactly one response head, and then decides. An event stream is handed to a driver in [`crate::driver`], and
//! the sessions, with everything they hold, are dropped; any other response is forwarded over the client's session.
//! Request filters, downstream modules and `logging` stay as they are: `logging` runs when the stream begins, and
//! [`Observer::ended`](crate::driver::Observer::ended) when it ends.
//!
//! For a request that cannot become a stream, [`Takeover::pass`] forwards the request and its response in the same way.
//!
//! For the reactors' listeners, `handoff` and `pending` do the same on a reactor's thread, without Pingora,
//! for plain requests; see `docs/decisions/0005-begin-plain-streams-in-the-reactor.md`.

mod client;
mod client_connection;
mod client_policy;
mod client_transport;
mod connection;
mod control;
mod dial;
mod drain;
mod exchange;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hand_over;
mod handoff;
mod hang_up;
mod hooks;
mod linger;
mod overlap;
mod page;
mod pending;
mod plan;
mod pool;
mod proxy_header;
mod refuse;
mod relay;
mod retry_later;
mod stall;
mod stand_in;
mod unavailable;
mod upload;
mod whole_request;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::Method;
use pingora::prelude::{HttpPeer, Result};
use pingora::proxy::Session;
use pingora::upstreams::peer::Peer;

use crate::driver::{
    BoundListener, Driver, Drivers, Endpoint, Route, StreamInfo, StreamPermit, StreamRegistry, Visitor,
};
use crate::headers;

pub use crate::failure::Failure;
pub use crate::headers::{TrustedProxies, accepts_event_stream};

pub use client_policy::{ClientPolicy, ClientRules};
pub use drain::Drained;
pub use hooks::Hooks;
pub use plan::{Carriage, Decision, InFlight, Permits, Plan, RefuseReason};
pub use refuse::Refusal;
pub use retry_later::{RetryAfter, RetryAnswer, RetryLater, RetryPolicy, is_event_source};

use crate::exchange::{BodyStart, ClientHop, HeadReader, Upload, connect_error, upstream_request};
use connection::UpstreamConnection;
use exchange::{Answer, Upstreams};

pub(crate) use client_connection::{ClientConnection, NextHead};
pub(crate) use client_transport::{ClientTransport, delegate_digests};
pub(crate) use handoff::{Admission, Decided, EarlyAnswer, HandedOff, Handoff, PriorOutcome, RequestHandler};
pub(crate) use proxy_header::{read_proxy_header, report_violation};

/// Takes requests over. One per process is enough; share it between the services of a proxy.
///
/// Upstreams are spoken to over HTTP/1.1. The crate's documentation lists the fields that are removed and added, and which of
/// Pingora's hooks run.
pub struct Takeover {
    upstreams: Upstreams,
    drivers: Drivers,
    trusted_proxies: TrustedProxies,
    body_timeout: Option<Duration>,
}

/// How long a client may keep silent within its request's body (`client_body_timeout` in nginx).
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for Takeover {
    fn default() -> Self {
        Self::new(Drivers::default())
    }
}

impl Takeover {
    /// Carries plain HTTP/1.1 streams on this many reactor threads. The default is one for two cores: one thread carries some
    /// 40,000 events a second.
    ///
    /// Threads start with the first stream. Where none can be started, each stream gets a task on the runtime that called
    /// [`Takeover::take_over`], and the failure is logged.
    pub fn with_reactor_threads(threads: usize) -> Self {
        Self::new(Drivers::new(Driver::default(), threads))
    }

    /// Hands streams to these drivers.
    pub(crate) fn new(drivers: Drivers) -> Self {
        // Idle connections are kept in the crate's own pool, without buffers.
        let connector = TransportConnector::new(Some(ConnectorOptions::new(1)));
        let upstreams = Upstreams { connector, pool: pool::Pool::default() };
        Self { upstreams, drivers, trusted_proxies: TrustedProxies::default(), body_timeout: Some(BODY_TIMEOUT) }
    }

    /// Trusts `X-Forwarded-For` and similar fields of these peers, in place of those on the loopback interface.
    #[must_use]
    pub fn trusting(self, trusted_proxies: TrustedProxies) -> Self {
        Self { trusted_proxies, ..self }
    }

    /// Limits how long a client may keep silent within its request's body, in place of 60 s. `None` sets no limit.
    #[must_use]
    pub fn with_body_timeout(self, body_timeout: Option<Duration>) -> Self {
        Self { body_timeout, ..self }
    }

    /// The peers whose forwarding fields are trusted.
    pub fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted_proxies
    }

    /// The number of streams that are running.
    pub fn active(&self) -> usize {
        self.registry().active()
    }

    /// Ends every stream, running or new, at its next event boundary, and waits until all have ended or `limit` has
    /// passed. Streams that are left then are cut.
    ///
    /// Call it once the listeners accept no more, or refuse requests while [`Takeover::is_draining`]: streams that begin
    /// during a drain end at their first event boundary. A `Takeover` stays drained for ever.
    ///
    /// Only streams count: other responses that are under way are for Pingora's shutdown. Streams with a content coding have no
    /// events that the proxy can see, and are cut at once. Cutting takes up to a second, so this may return up to a second after
    /// `limit`.
    ///
    /// Needs a Tokio runtime with timers; it need not be Pingora's.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the drain continues: streams still end at their next event, or are cut when `limit` has passed.
    ///
    /// ```no_run
    /// # async fn shut_down(takeover: &sse_proxy::Takeover) {
    /// let drained = takeover.drain(std::time::Duration::from_secs(30)).await;
    /// println!("{} streams ended, {} were cut", drained.ended, drained.cut);
    /// # }
    /// ```
    pub async fn drain(&self, limit: Duration) -> Drained {
        drain::drain(self.registry(), limit).await
    }

    /// Whether [`Takeover::drain`] has been called. Refuse new requests then, for example with 503.
    pub fn is_draining(&self) -> bool {
        self.registry().draining().is_some()
    }

    /// The running streams, and how to drain them.
    pub(crate) fn registry(&self) -> &Arc<StreamRegistry> {
        self.drivers.registry()
    }

    /// Shows every stream that runs now to `visitor`, on the thread that runs it, and waits for at most `limit`. Returns
    /// whether all have been visited. The visitor may read a stream, give it another policy, or end it at its next event boundary.
    ///
    /// Needs a Tokio runtime with timers; it need not be Pingora's.
    ///
    /// # Cancel safety
    /// Dropped before it is done, some streams are not visited. The visitor may still be called for a moment.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// use sse_proxy::{EndReason, RunningStream, Takeover};
    ///
    /// # async fn log_out(takeover: &Takeover) {
    /// let second = Duration::from_secs(1);
    /// let visitor = move |stream: &mut RunningStream<'_>| {
    ///     if stream.info().path().starts_with("/users/42/") {
    ///         stream.end(EndReason::Admin, second);
    ///     }
    /// };
    /// takeover.visit(Arc::new(visitor), second).await;
    /// # }
    /// ```
    pub async fn visit(&self, visitor: Arc<Visitor>, limit: Duration) -> bool {
        self.drivers.visit(visitor, limit).await
    }

    /// Whether a request can become a stream: one over HTTP/1 or HTTP/2 that has a body to answer with and does not
    /// ask for another protocol.
    pub fn can_take(session: &Session) -> bool {
        Self::can_pass(session) && session.req_header().method != Method::HEAD
    }

    /// Whether a request can be forwarded by [`Takeover::pass`]: one over HTTP/1 or HTTP/2 that does not ask for
    /// another protocol. HttpProxy forwards all others.
    pub fn can_pass(session: &Session) -> bool {
        (session.as_http1().is_some() || session.as_http2().is_some()) && !headers::asks_upgrade(session.req_header())
    }

    /// Sends the request to the first of `peers` that can be connected to, and carries the answer to its end.
    ///
    /// Returns what `proxy_upstream_filter` should: `Ok(true)` when the request cannot be taken over (see
    /// [`Takeover::can_take`]) and HttpProxy should continue with it, `Ok(false)` when it has been answered. A failure
    /// before the response head is reported to the route's observer and answered with 400, 408, 502 or 504
    /// ([`Failure::status`]) and a body that names it. An empty `peers` is [`Failure::NoServer`], 502.
    ///
    /// The limits of the route's policy replace the timeouts of the peers. A peer's ALPN is ignored: upstreams are spoken to
    /// over HTTP/1.1.
    ///
    /// Returns once a stream has begun, except for one that begins while its request is still being uploaded: it returns when
    /// that stream has ended.
    ///
    /// A client that closes its connection is noticed at once, unless it has sent something behind its request: Pingora's
    /// session reads no further then, and the request ends with its response, or at [`Timeouts::first_byte`]
    /// (`Session` offers no other way; the `sse-proxy` binary wraps its connections).
    ///
    /// [`Timeouts::first_byte`]: crate::stream::Timeouts::first_byte
    ///
    /// # Errors
    /// Return it from `proxy_upstream_filter`: Pingora calls `fail_to_proxy`, whose default sends nothing where nothing can be
    /// sent any more.
    /// - The client closed the connection before the response ([`Failure::ClientGone`]), or read nothing of its head
    ///   ([`Failure::WriteTimeout`]). The observer has been told.
    /// - The client's connection failed or timed out while a response other than an event stream was written, or the
    ///   upstream's while one was read. The observer is not told.
    /// - The request cannot be built for the upstream, a downstream module failed, or a stream could not be started, for example
    ///   because no descriptor is left.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it closes the upstream's connection. A stream that has begun runs on, unless its request is
    /// still being uploaded: that one ends.
    pub async fn take_over(&self, session: &mut Session, peers: &[HttpPeer], route: &Arc<Route>) -> Result<bool> {
        self.take_over_with(session, peers, route, &()).await
    }

    /// The same, with hooks that may change the request and the stream's response head.
    ///
    /// # Errors
    /// As [`Takeover::take_over`], and when a hook fails: with the hook's error, which the observer is not told.
    pub async fn take_over_with(
        &self,
        session: &mut Session,
        peers: &[HttpPeer],
        route: &Arc<Route>,
        hooks: &dyn Hooks,
    ) -> Result<bool> {
        if !Self::can_take(session) {
            return Ok(true);
        }
        // Pipelined bytes wait until the request has been served, instead of ending it.
        session.downstream_session.set_pipelining_enabled(true);
        self.forward(session, Candidates { peers, endpoints: &[], permit: None }, route, true, hooks, self.terms())
            .await?;
        Ok(false)
    }

    /// The same for a request that must not become a stream, whatever its response is. Keeps the connection to the
    /// upstream for other requests. Returns `Ok(true)` unless [`Takeover::can_pass`] holds.
    ///
    /// # Errors
    /// As [`Takeover::take_over`].
    pub async fn pass(&self, session: &mut Session, peers: &[HttpPeer], route: &Arc<Route>) -> Result<bool> {
        if !Self::can_pass(session) {
            return Ok(true);
        }
        self.forward(session, Candidates { peers, endpoints: &[], permit: None }, route, false, &(), self.terms())
            .await?;
        Ok(false)
    }

    /// Does what `plan` says, by `rules` in place of the takeover's own; a stream holds `permit`. Returns `Ok(true)` for an
    /// upgrade: HttpProxy should continue with it.
    ///
    /// # Errors
    /// As [`Takeover::take_over`].
    pub(crate) async fn serve(
        &self,
        session: &mut Session,
        plan: &Plan,
        rules: &ClientRules,
        permit: Option<StreamPermit>,
    ) -> Result<bool> {
        let (may_be_stream, peers) = match plan.carriage {
            Carriage::Stream => (true, plan.peers()),
            Carriage::Page => (false, plan.peers()),
            Carriage::Upgrade => return Ok(true),
        };
        if may_be_stream {
            // Pipelined bytes wait until the request has been served, instead of ending it.
            session.downstream_session.set_pipelining_enabled(true);
        }
        let candidates = Candidates { peers: &peers, endpoints: &plan.endpoints, permit };
        let terms = Terms { trusted_proxies: &rules.trusted_proxies, body_timeout: rules.policy.body };
        self.forward(session, candidates, &plan.route, may_be_stream, &(), terms).await?;
        Ok(false)
    }

    fn terms(&self) -> Terms<'_> {
        Terms { trusted_proxies: &self.trusted_proxies, body_timeout: self.body_timeout }
    }

    async fn forward(
        &self,
        session: &mut Session,
        mut candidates: Candidates<'_>,
        route: &Arc<Route>,
        may_be_stream: bool,
        hooks: &dyn Hooks,
        terms: Terms<'_>,
    ) -> Result<()> {
        let started = Instant::now();
        let peers = candidates.peers;
        let client = session.client_addr().and_then(|address| address.as_inet()).copied();
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let has_body = !session.is_body_empty();
        let host = peers.first().map(host_of);
        let address = client.map(|address| address.ip());
        let hop = ClientHop { address, tls, trusted_proxies: terms.trusted_proxies };
        let (downstream, rules) = (session.req_header().clone(), route.policy.heads.as_deref());
        let mut request = upstream_request(downstream, may_be_stream, has_body, host.as_deref(), &hop, rules)?;
        hooks.upstream_request(session, &mut request)?;

        let policy = &route.policy;
        let exchange =
            exchange::exchange(&self.upstreams, session, peers, &request, may_be_stream, policy, terms.body_timeout);
        match Box::pin(exchange).await {
            Ok(answer) if answer.body_start.is_stream => {
                drop(request);
                let (request, server) = (session.req_header(), answer.server);
                let target = String::from_utf8_lossy(request.raw_path());
                let client = terms.trusted_proxies.client(client, &request.headers).address;
                let info = StreamInfo::new(client, server, request.method.as_str(), &target, started.elapsed())
                    .at(candidates.endpoint_at(server))
                    .holding(candidates.permit.take());
                self.begin(session, answer, route, info, hooks).await
            }
            Ok(answer) => {
                // It is no stream.
                candidates.permit = None;
                self.pass_on(session, answer, route).await
            }
            Err(failure) => Self::refuse(session, failure, route).await,
        }
    }

    /// Begins a stream.
    async fn begin(
        &self,
        session: &mut Session,
        answer: Answer,
        route: &Arc<Route>,
        info: StreamInfo,
        hooks: &dyn Hooks,
    ) -> Result<()> {
        let (route, drivers) = (route.clone(), &self.drivers);
        let failure = if answer.upload.is_done() {
            Box::pin(hand_over::hand_over(session, answer, route.clone(), drivers, info, hooks)).await?
        } else {
            Box::pin(overlap::run(session, answer, route.clone(), drivers, info, hooks)).await?
        };
        match failure {
            Some(failure) => Self::refuse(session, failure, &route).await,
            None => Ok(()),
        }
    }

    /// Continues a request that a reactor has sent, and whose response is not an event stream.
    ///
    /// # Errors
    /// When the client's connection fails while a response is being written to it.
    pub(crate) async fn resume(
        &self,
        session: &mut Session,
        early: handoff::EarlyAnswer,
        route: &Arc<Route>,
    ) -> Result<()> {
        // The upstream has the whole request, and its body is buffered: reading it does not block.
        while session.downstream_session.read_request_body().await?.is_some() {}
        let answer = early.and_then(|(bytes, upstream)| {
            let broken = |source| Failure::Broken { source };
            let upstream = tokio::net::TcpStream::from_std(upstream).map_err(|error| broken(connect_error(error)))?;
            let mut reader = HeadReader::new(route.policy.response_head_bytes);
            reader.feed(&bytes);
            let head = reader.take()?.ok_or_else(|| broken(reader.cut_short()))?;
            let body_start = BodyStart::of(&head, reader, false, false)?;
            let connection = UpstreamConnection::Tcp(upstream);
            Ok(Answer { head, body_start, connection, upload: Upload::done(), server: None, key: None })
        });
        match answer {
            Ok(answer) => self.pass_on(session, answer, route).await,
            Err(failure) => Self::refuse(session, failure, route).await,
        }
    }

    /// Registers a listener for plain TCP with the reactors, which start its streams without a task and without
    /// Pingora's sessions.
    ///
    /// # Errors
    /// When no reactor thread is running.
    pub(crate) fn listen(&self, listener: TcpListener, handler: &RequestHandler) -> io::Result<BoundListener> {
        self.drivers.listen(listener, Arc::new(handler.clone()))
    }

    /// Whether every reactor thread answers within `limit`. Blocks until then.
    pub(crate) fn responds(&self, limit: Duration) -> bool {
        self.drivers.respond(limit)
    }

    async fn pass_on(&self, session: &mut Session, answer: Answer, route: &Route) -> Result<()> {
        Box::pin(relay::relay(session, answer, &self.upstreams.pool, &route.policy)).await
    }

    async fn refuse(session: &mut Session, failure: Failure, route: &Route) -> Result<()> {
        route.failed(&failure);
        unavailable::answer(session, failure, &route.policy).await?;
        linger::linger(session).await;
        Ok(())
    }
}

/// What holds for one request beside its route.
#[derive(Clone, Copy)]
struct Terms<'a> {
    trusted_proxies: &'a TrustedProxies,
    body_timeout: Option<Duration>,
}

/// The servers of a request, in the order to try them.
struct Candidates<'a> {
    peers: &'a [HttpPeer],
    /// Their endpoints, which count the streams; empty for servers that only the caller knows.
    endpoints: &'a [Arc<Endpoint>],
    /// What a stream holds.
    permit: Option<StreamPermit>,
}

impl Candidates<'_> {
    fn endpoint_at(&self, address: Option<SocketAddr>) -> Option<Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| Some(endpoint.address) == address).cloned()
    }
}

/// The `Host` for a request that has none.
fn host_of(peer: &HttpPeer) -> String {
    match peer.address().as_inet() {
        Some(address) if !peer.sni.is_empty() && peer.sni.parse::<std::net::IpAddr>().is_err() => {
            format!("{}:{}", peer.sni, address.port())
        }
        _ => peer.address().to_string(),
    }
}
