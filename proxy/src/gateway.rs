//! The implementation of Pingora's `ProxyHttp`: routes, refusals, and one call to the plugin. HttpProxy reads the
//! requests, and forwards upgrades itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, HttpPeer, Result};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{BError, ErrorSource};

use crate::config::StreamMode;
use crate::driver::{self, descriptors};
use crate::failure::{connect_status, is_malformed_body};
use crate::headers::{self, TrustedProxies};
use crate::metrics::Metrics;
use crate::takeover::{
    Admission, Admitted, ClientPolicy, InFlight, PriorOutcome, Refusal, Takeover, accepts_event_stream,
};
use crate::upstream::Upstream;

/// A route, ready to serve.
pub struct GatewayRoute {
    /// The path prefix of its requests.
    pub path_prefix: String,
    /// Which of its requests are streams.
    pub stream: StreamMode,
    /// The upstream of its requests.
    pub upstream: Arc<Upstream>,
    /// The policy and the counters of its streams.
    pub streams: Arc<driver::Route>,
}

/// The proxy. Clones share everything; each of Pingora's services has one, and so do the reactors' listeners.
#[derive(Clone)]
pub struct Gateway {
    routes: Arc<[GatewayRoute]>,
    takeover: Arc<Takeover>,
    metrics: Arc<Metrics>,
    in_flight: Arc<AtomicUsize>,
    client: ClientPolicy,
}

/// One request's state.
pub struct RequestContext {
    /// Set before anything else handles the request; required for sending it.
    prior_outcome: Option<PriorOutcome>,
    route: Option<usize>,
    /// The servers for an upgrade that have not failed, the next one first. Empty until the first is needed.
    candidates: VecDeque<HttpPeer>,
    _in_flight: InFlight,
}

impl Gateway {
    /// A proxy over `routes`, first match first, for clients with these limits.
    pub fn new(
        routes: Vec<GatewayRoute>,
        takeover: Arc<Takeover>,
        metrics: Arc<Metrics>,
        client: ClientPolicy,
    ) -> Self {
        Self { routes: routes.into(), takeover, metrics, in_flight: Arc::default(), client }
    }

    /// The number of requests in HttpProxy, or in a reactor before their response heads.
    pub fn in_flight(&self) -> Arc<AtomicUsize> {
        self.in_flight.clone()
    }

    /// The longest `timeouts.write` of all routes; `None` where one of them has no limit.
    pub fn longest_write(&self) -> Option<Duration> {
        let limits = self.routes.iter().map(|route| route.streams.policy.timeouts.write);
        limits.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The index of the route that matches the request's path.
    fn route_of(&self, request: &RequestHeader) -> Option<usize> {
        // `*` stands for the server as a whole (RFC 9112 §3.2.4): the route of the root matches it.
        let path = match request.raw_path() {
            b"*" => b"/",
            path => path,
        };
        self.routes.iter().position(|route| path.starts_with(route.path_prefix.as_bytes()))
    }

    fn route(&self, context: &RequestContext) -> Result<&GatewayRoute> {
        let route = context.route.and_then(|at| self.routes.get(at));
        route.ok_or_else(|| Error::explain(ErrorType::HTTPStatus(404), "no route matches"))
    }

    async fn refuse(&self, session: &mut Session, reason: &'static str, refusal: Refusal) -> Result<bool> {
        self.metrics.refused(reason);
        refusal.write(session).await?;
        Ok(true)
    }

    fn is_stream(&self, route: &GatewayRoute, request: &RequestHeader) -> bool {
        match route.stream {
            StreamMode::Accept => accepts_event_stream(request),
            StreamMode::Always => true,
            StreamMode::Never => false,
        }
    }
}

impl Admission for Gateway {
    fn admit(&self, request: &mut RequestHeader) -> Option<Admitted> {
        headers::normalize_request(request);
        if headers::is_loop(&request.headers) {
            return None;
        }
        let route = self.routes.get(self.route_of(request)?)?;
        if !self.is_stream(route, request) {
            return None;
        }
        let servers = route.upstream.plain_addresses()?;
        Some(Admitted { route: route.streams.clone(), servers, in_flight: InFlight::enter(&self.in_flight) })
    }

    fn trusted_proxies(&self) -> &TrustedProxies {
        self.takeover.trusted_proxies()
    }

    fn answered(&self, status: u16) {
        self.metrics.request(status);
    }

    fn dropped_fields(&self, count: usize) {
        self.metrics.dropped_fields(count);
    }

    fn in_flight(&self) -> InFlight {
        InFlight::enter(&self.in_flight)
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        let in_flight = InFlight::enter(&self.in_flight);
        RequestContext { prior_outcome: None, route: None, candidates: VecDeque::new(), _in_flight: in_flight }
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        context.prior_outcome = Some(PriorOutcome::take(session));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        // The session decides on keep-alive by the client's fields (RFC 9112 §9.3).
        session.downstream_session.set_read_timeout(self.client.body);
        if session.as_http2().is_some() {
            match headers::check_http2_request(session.req_header_mut(), &self.client.head) {
                Ok(dropped_fields) => self.metrics.dropped_fields(dropped_fields),
                Err(refusal) => {
                    let (reason, status) = (refusal.as_str(), refusal.status());
                    let refusal =
                        Refusal { status, text: refusal.to_string().into(), proxy_status: "http_request_error" };
                    return self.refuse(session, reason, refusal).await;
                }
            }
        }
        headers::normalize_request(session.req_header_mut());
        if headers::is_loop(&session.req_header().headers) {
            let text = "the request has come through this proxy before: its upstream leads back here".into();
            let refusal = Refusal { status: 508, text, proxy_status: "proxy_loop_detected" };
            return self.refuse(session, "loop", refusal).await;
        }
        headers::drop_ignored_upgrade(session.req_header_mut());
        context.route = self.route_of(session.req_header());
        if context.route.is_some() {
            return Ok(false);
        }
        let text = "no route of this proxy matches the path".into();
        self.refuse(session, "no_route", Refusal { status: 404, text, proxy_status: "destination_not_found" }).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        let prior_outcome = context.prior_outcome.take();
        let prior_outcome = prior_outcome
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "early_request_filter has not run"))?;
        let route = self.route(context)?;
        if let Some(answer) = prior_outcome.into_answer() {
            self.takeover.resume(session, answer, &route.streams).await?;
            return Ok(false);
        }
        if !Takeover::can_pass(session) {
            return Ok(true);
        }
        let peers = route.upstream.peers(route.streams.policy.timeouts.connect).await;
        if self.is_stream(route, session.req_header()) && Takeover::can_take(session) {
            self.takeover.take_over(session, &peers, &route.streams).await
        } else {
            self.takeover.pass(session, &peers, &route.streams).await
        }
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        // HttpProxy takes the descriptor by itself; those of the reserve are not for clients.
        if descriptors::are_scarce() {
            let none_left = descriptors::none_left();
            return Err(Error::because(ErrorType::ConnectError, "connecting", none_left).into_up());
        }
        if context.candidates.is_empty() {
            let route = self.route(context)?;
            context.candidates = route.upstream.peers(route.streams.policy.timeouts.connect).await.into();
        }
        let none = || Error::explain(ErrorType::ConnectNoRoute, "the upstream has no server to connect to").into_up();
        context.candidates.front().map(|peer| Box::new(peer.clone())).ok_or_else(none)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut RequestContext,
        mut error: BError,
    ) -> BError {
        // Nothing has been sent yet, so the next server can be tried.
        context.candidates.pop_front();
        error.set_retry(!context.candidates.is_empty());
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut RequestContext,
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        headers::add_via(request, session.req_header().version)?;
        headers::set_forwarded(request, client, tls, self.takeover.trusted_proxies())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _: &mut RequestContext,
    ) -> Result<()> {
        // "A server MUST NOT switch to a protocol that was not indicated by the client" (RFC 9110 §7.8).
        if response.status == 101 && !session.is_upgrade_req() {
            let what = "the upstream switched protocols without being asked to";
            return Err(Error::explain(ErrorType::HTTPStatus(502), what).into_up());
        }
        headers::upgrade_response(response)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, _: &mut RequestContext) -> FailToProxy {
        let refusal = describe(error);
        if let Some(refusal) = &refusal
            && let Err(unsent) = refusal.write(session).await
        {
            log::debug!("error response not written: side=downstream: {unsent}");
        }
        FailToProxy { error_code: refusal.map_or(0, |refusal| refusal.status), can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &RequestContext, _: &Error) -> bool {
        // `logging` reports it, with the side that failed.
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut RequestContext) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        self.metrics.request(status);
        if let Some(error) = error {
            // A client that closes its connection is not an error.
            let is_client_close = *error.esource() == ErrorSource::Downstream;
            let level = if is_client_close { log::Level::Debug } else { log::Level::Warn };
            let route = self.route(context).map_or("", |route| &route.streams.name);
            let (side, reason, request) = (side(error), error.etype().as_str(), session.req_header());
            let (method, target) = (&request.method, headers::masked_target(request.raw_path()));
            log::log!(
                level,
                "request failed: side={side} route={route} reason={reason} status={status}: {method} {target}: {error}"
            );
        }
    }
}

fn side(error: &Error) -> &'static str {
    match error.esource() {
        ErrorSource::Upstream => "upstream",
        ErrorSource::Downstream => "downstream",
        ErrorSource::Internal | ErrorSource::Unset => "internal",
    }
}

/// The response to a request that failed; `None` if the client has closed the connection.
fn describe(error: &Error) -> Option<Refusal> {
    use ErrorType as Type;
    let (status, text, proxy_status) = match (error.esource(), error.etype()) {
        (_, Type::HTTPStatus(status)) => (*status, "the request cannot be served", "proxy_internal_error"),
        (ErrorSource::Upstream, Type::ConnectTimedout) => {
            (504, "connecting to the upstream took too long", "connection_timeout")
        }
        (ErrorSource::Upstream, Type::ReadTimedout | Type::WriteTimedout) => {
            (504, "the upstream took too long", "http_response_timeout")
        }
        (ErrorSource::Upstream, Type::ConnectRefused | Type::ConnectNoRoute | Type::ConnectError) => {
            (502, "cannot connect to the upstream", connect_status(error))
        }
        (
            ErrorSource::Upstream,
            Type::InvalidCert | Type::TLSHandshakeFailure | Type::TLSHandshakeTimedout | Type::HandshakeError,
        ) => match connect_status(error) {
            "tls_certificate_error" => (502, "the upstream's certificate cannot be verified", "tls_certificate_error"),
            proxy_status => (502, "the TLS handshake with the upstream failed", proxy_status),
        },
        (ErrorSource::Upstream, _) => (502, "the upstream broke off", "connection_terminated"),
        (ErrorSource::Downstream, Type::ReadTimedout) => {
            (408, "the request body took longer than client.timeouts.body", "http_request_error")
        }
        (ErrorSource::Downstream, Type::ReadError) if is_malformed_body(error) => {
            (400, "the request body cannot be understood", "http_request_error")
        }
        (
            ErrorSource::Downstream,
            Type::WriteError | Type::WriteTimedout | Type::ReadError | Type::ConnectionClosed,
        ) => {
            return None;
        }
        (ErrorSource::Downstream, _) => (400, "the request cannot be understood", "http_request_error"),
        _ => (500, "the proxy failed", "proxy_internal_error"),
    };
    Some(Refusal { status, text: text.into(), proxy_status })
}
