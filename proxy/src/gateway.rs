//! The proxy itself, as Pingora wants it: routes, forwarded headers, and one call to the plugin. All else is HttpProxy's.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::{Error, HttpPeer, Result};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{BError, ErrorSource};

use crate::config::StreamMode;
use crate::driver;
use crate::failure;
use crate::headers::{self, TrustedProxies};
use crate::metrics::Metrics;
use crate::takeover::{Admission, Admitted, ClientPolicy, InFlight, Takeover, accepts_event_stream};
use crate::upstream::Upstream;

/// A route, ready to serve.
pub struct GatewayRoute {
    /// Paths that begin with this are its own.
    pub path_prefix: String,
    /// Which of its requests are streams.
    pub stream: StreamMode,
    /// Where they go.
    pub upstream: Arc<Upstream>,
    /// The rules and books of its streams.
    pub streams: Arc<driver::Route>,
}

/// The proxy. Clones share everything; each of Pingora's services takes one, and so do the reactors' listeners.
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
    route: Option<usize>,
    tries: usize,
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

    /// The number of requests that HttpProxy is working on, or that wait in a reactor for their heads.
    pub fn in_flight(&self) -> Arc<AtomicUsize> {
        self.in_flight.clone()
    }

    /// The longest `timeouts.write` of all routes; `None` where one of them has no limit.
    pub fn longest_write(&self) -> Option<Duration> {
        let limits = self.routes.iter().map(|route| route.streams.policy.timeouts.write);
        limits.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The route of a request, by its path.
    fn route_of(&self, request: &RequestHeader) -> Option<usize> {
        // `*` stands for the server as a whole (RFC 9112 §3.2.4): whoever serves the root serves it.
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
        headers::normalize_request(request).ok()?;
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
        RequestContext { route: None, tries: 0, _in_flight: InFlight::enter(&self.in_flight) }
    }

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        // Whether the connection is kept is for the client's fields and the session to say (RFC 9112 §9.3).
        session.downstream_session.set_read_timeout(self.client.body);
        if session.as_http2().is_some() {
            match headers::check_http2_request(session.req_header_mut(), &self.client.head) {
                Ok(dropped_fields) => self.metrics.dropped_fields(dropped_fields),
                Err(refusal) => {
                    self.metrics.refused(refusal.as_str());
                    let body = Bytes::from(format!("{} {refusal}\n", refusal.status()));
                    session.respond_error_with_body(refusal.status(), body).await?;
                    return Ok(true);
                }
            }
        }
        if let Err(error) = headers::normalize_request(session.req_header_mut()) {
            self.metrics.refused("bad_request");
            let body = Bytes::from(format!("{} {error}\n", error.status()));
            session.respond_error_with_body(error.status(), body).await?;
            return Ok(true);
        }
        context.route = self.route_of(session.req_header());
        if context.route.is_some() {
            return Ok(false);
        }
        self.metrics.refused("no_route");
        let body = Bytes::from_static(b"404 no route of this proxy matches the path\n");
        session.respond_error_with_body(404, body).await?;
        Ok(true)
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        let route = self.route(context)?;
        if !self.is_stream(route, session.req_header()) || !Takeover::can_take(session) {
            return Ok(true);
        }
        if self.takeover.resume(session, &route.streams).await? {
            return Ok(false);
        }
        let peers = route.upstream.peers(route.streams.policy.timeouts.connect).await;
        self.takeover.take_over(session, &peers, &route.streams).await
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        let route = self.route(context)?;
        let peers = route.upstream.peers(route.streams.policy.timeouts.connect).await;
        match peers.len() {
            0 => Err(Error::explain(ErrorType::ConnectNoRoute, "the upstream has no server to connect to").into_up()),
            count => Ok(Box::new(peers[context.tries % count].clone())),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut RequestContext,
        mut error: BError,
    ) -> BError {
        // Nothing has been sent yet: the next server may do better.
        let servers = self.route(context).map_or(1, |route| route.upstream.server_count());
        context.tries += 1;
        error.set_retry(context.tries < servers);
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
            let what = "the upstream switched protocols without being request to";
            return Err(Error::explain(ErrorType::HTTPStatus(502), what).into_up());
        }
        // "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding request indicates
        // HTTP/1.1" (RFC 9112 §6.1).
        if session.req_header().version <= Version::HTTP_10 {
            response.remove_header("transfer-encoding");
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, _: &mut RequestContext) -> FailToProxy {
        let (status, text) = describe(error);
        if status > 0 {
            let body = Bytes::from(format!("{status} {text}\n"));
            if let Err(unsent) = session.respond_error_with_body(status, body).await {
                log::debug!("error response not delivered: side=downstream: {unsent}");
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &RequestContext, _: &Error) -> bool {
        // `logging` tells it, with the side that failed.
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut RequestContext) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        self.metrics.request(status);
        if let Some(error) = error {
            // A client that leaves is no error of anybody's.
            let gone = *error.esource() == ErrorSource::Downstream;
            let level = if gone { log::Level::Debug } else { log::Level::Warn };
            let route = self.route(context).map_or("", |route| &route.streams.name);
            let (side, reason, request) = (side(error), error.etype().as_str(), session.request_summary());
            log::log!(
                level,
                "request failed: side={side} route={route} reason={reason} status={status}: {request}: {error}"
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

/// The status and the sentence for a request that HttpProxy could not carry; status 0 where nobody is left to read it.
fn describe(error: &Error) -> (u16, &'static str) {
    use ErrorType as Type;
    match (error.esource(), error.etype()) {
        (_, Type::HTTPStatus(status)) => (*status, "the request cannot be served"),
        (ErrorSource::Upstream, Type::ConnectTimedout) => (504, "connecting to the upstream took too long"),
        (ErrorSource::Upstream, Type::ReadTimedout | Type::WriteTimedout) => (504, "the upstream took too long"),
        (ErrorSource::Upstream, Type::ConnectRefused | Type::ConnectNoRoute | Type::ConnectError) => {
            (502, "cannot connect to the upstream")
        }
        (ErrorSource::Upstream, _) => (502, "the upstream broke off"),
        (ErrorSource::Downstream, Type::ReadTimedout) => {
            (408, "the request body took longer than client.timeouts.body")
        }
        (ErrorSource::Downstream, Type::ReadError) if failure::is_malformed_body(error) => {
            (400, "the request body cannot be understood")
        }
        (ErrorSource::Downstream, Type::WriteError | Type::ReadError | Type::ConnectionClosed) => (0, ""),
        (ErrorSource::Downstream, _) => (400, "the request cannot be understood"),
        _ => (500, "the proxy failed"),
    }
}
