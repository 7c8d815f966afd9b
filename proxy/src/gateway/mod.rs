//! The implementation of Pingora's `ProxyHttp`: asks for a decision, and calls the plugin with it. HttpProxy reads the
//! requests, and forwards upgrades itself.

mod admission;
mod errors;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, HttpPeer, Result};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{BError, ErrorSource, ErrorType};

use crate::driver::{clock, descriptors};
use crate::headers::{self, Client};
use crate::metrics::Metrics;
use crate::routing::{Answered, RequestObserver, Router};
use crate::takeover::{
    Carriage, ClientRules, Decided, EarlyAnswer, InFlight, Plan, PriorOutcome, Refusal, RefuseReason, Takeover,
};
use errors::{describe, side};

/// The proxy. Clones share everything; each of Pingora's services has one, and so do the reactors' listeners.
#[derive(Clone)]
pub struct Gateway {
    router: Arc<Router>,
    takeover: Arc<Takeover>,
    metrics: Arc<Metrics>,
    observer: Option<Arc<dyn RequestObserver>>,
}

/// One request's state.
pub struct RequestContext {
    /// In force when it began.
    rules: Arc<ClientRules>,
    /// Until there is a plan, which counts the request itself.
    in_flight: Option<InFlight>,
    /// Set before anything else handles the request; required for deciding on it.
    prior_outcome: Option<PriorOutcome>,
    /// What was decided. Its endpoints are those that have not failed.
    plan: Option<Plan>,
    /// The upstream's answer to a request that a reactor has sent.
    early_answer: Option<EarlyAnswer>,
    started: Instant,
}

impl Gateway {
    /// A proxy that serves what `router` decides.
    pub fn new(router: Arc<Router>, takeover: Arc<Takeover>, metrics: Arc<Metrics>) -> Self {
        Self { router, takeover, metrics, observer: None }
    }

    /// Reports requests that do not become streams.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn RequestObserver>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Reports a request that has ended, unless it has become a stream.
    fn report(&self, session: &Session, context: &RequestContext, status: u16) {
        let Some(observer) = &self.observer else { return };
        let may_be_stream = context.plan.as_ref().is_some_and(|plan| plan.carriage == Carriage::Stream);
        if may_be_stream && session.response_written().is_some_and(headers::is_event_stream) {
            return;
        }
        let request = session.req_header();
        observer.answered(&Answered {
            route: context.plan.as_ref().map_or("", |plan| &plan.route.name),
            client: client_of(session, context).address,
            method: request.method.as_str(),
            target: &String::from_utf8_lossy(request.raw_path()),
            status,
            bytes: session.body_bytes_sent() as u64,
            duration: context.started.elapsed(),
        });
    }

    /// Decides on a request, unless a reactor has. Returns the reason to refuse it; otherwise it has a plan.
    async fn decide(&self, session: &Session, context: &mut RequestContext) -> Result<Option<RefuseReason>> {
        let prior_outcome = context.prior_outcome.take();
        let prior_outcome = prior_outcome
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "early_request_filter has not run"))?;
        let plan = match prior_outcome.into_decided() {
            Some(Decided::Refused(reason)) => return Ok(Some(reason)),
            Some(Decided::Sent(plan, answer)) => {
                context.early_answer = Some(answer);
                plan
            }
            None => {
                let request = session.req_header();
                let client = client_of(session, context);
                match self.router.plan(request, &client, clock::now()).await {
                    Ok(plan) => plan,
                    Err(reason) => return Ok(Some(reason)),
                }
            }
        };
        (context.plan, context.in_flight) = (Some(plan), None);
        Ok(None)
    }

    async fn refuse(&self, session: &mut Session, reason: &'static str, refusal: Refusal) -> Result<bool> {
        self.metrics.refused(reason);
        refusal.write(session).await?;
        Ok(true)
    }
}

/// Who sent a request.
fn client_of(session: &Session, context: &RequestContext) -> Client {
    let peer = session.client_addr().and_then(|address| address.as_inet()).copied();
    context.rules.trusted_proxies.client(peer, &session.req_header().headers)
}

impl RequestContext {
    fn plan(&self) -> Result<&Plan> {
        self.plan.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "request_filter has not run"))
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext {
            rules: self.router.client_rules(),
            in_flight: Some(self.router.enter()),
            prior_outcome: None,
            plan: None,
            early_answer: None,
            started: Instant::now(),
        }
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        context.prior_outcome = Some(PriorOutcome::take(session));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        // The session decides on keep-alive by the client's fields (RFC 9112 §9.3).
        session.downstream_session.set_read_timeout(context.rules.policy.body);
        if session.as_http2().is_some() {
            match headers::check_http2_request(session.req_header_mut(), &context.rules.policy.head) {
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
        headers::drop_ignored_upgrade(session.req_header_mut());
        match self.decide(session, context).await? {
            Some(RefuseReason::Limited(limit, answer)) => {
                self.metrics.refused(RefuseReason::Limited(limit, answer).as_str());
                answer.write(session, &limit.into()).await?;
                Ok(true)
            }
            Some(reason) => self.refuse(session, reason.as_str(), reason.into()).await,
            None => Ok(false),
        }
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        let early_answer = context.early_answer.take();
        let permit = context.plan.as_mut().and_then(|plan| plan.permits.stream.take());
        let plan = context.plan()?;
        match early_answer {
            Some(answer) => self.takeover.resume(session, answer, &plan.route).await.map(|()| false),
            None => self.takeover.serve(session, plan, &context.rules, permit).await,
        }
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        // HttpProxy takes the descriptor by itself; those of the reserve are not for clients.
        if descriptors::are_scarce() {
            let none_left = descriptors::none_left();
            return Err(Error::because(ErrorType::ConnectError, "connecting", none_left).into_up());
        }
        let none = || Error::explain(ErrorType::ConnectNoRoute, "the upstream has no server to connect to").into_up();
        context.plan()?.peer().map(Box::new).ok_or_else(none)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut RequestContext,
        mut error: BError,
    ) -> BError {
        // Nothing has been sent yet, so the next server can be tried.
        error.set_retry(context.plan.as_mut().is_some_and(Plan::skip_endpoint));
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        headers::strip_request_control(request);
        headers::add_via(request, session.req_header().version)?;
        headers::set_forwarded(request, client, tls, &context.rules.trusted_proxies)?;
        match &context.plan()?.route.policy.heads {
            Some(rules) => rules.change_request(request),
            None => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        // "A server MUST NOT switch to a protocol that was not indicated by the client" (RFC 9110 §7.8).
        if response.status == 101 && !session.is_upgrade_req() {
            let what = "the upstream switched protocols without being asked to";
            return Err(Error::explain(ErrorType::HTTPStatus(502), what).into_up());
        }
        headers::upgrade_response(response)?;
        match &context.plan()?.route.policy.heads {
            Some(rules) => rules.change_response(response),
            None => Ok(()),
        }
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
        self.report(session, context, status);
        if let Some(error) = error {
            // A client that closes its connection is not an error.
            let is_client_close = *error.esource() == ErrorSource::Downstream;
            let level = if is_client_close { log::Level::Debug } else { log::Level::Warn };
            let route = context.plan.as_ref().map_or("", |plan| &plan.route.name);
            let (side, reason, request) = (side(error), error.etype().as_str(), session.req_header());
            let (method, target) = (&request.method, headers::masked_target(request.raw_path()));
            log::log!(
                level,
                "request failed: side={side} route={route} reason={reason} status={status}: {method} {target}: {error}"
            );
        }
    }
}
