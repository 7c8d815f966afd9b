//! What is decided for a request before it is sent: whether it is served, where, and on which conditions.
//!
//! The decision is made elsewhere. The proxy of this crate makes it in `routing`; a proxy that embeds the plugin makes it
//! in its own hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::prelude::HttpPeer;

use super::dial::pingora_keep_alive;
use super::refuse::Refusal;
use super::retry_later::RetryLater;
use crate::driver::{Endpoint, Route, StreamPermit};
use crate::limits::Limit;
use crate::stream::Policy;

/// What happens to a request that a reactor has read.
#[derive(Debug)]
pub enum Decision {
    /// Send it.
    Serve(Plan),
    /// Answer it with an error.
    Refuse(RefuseReason),
    /// Let Pingora read it and decide.
    Leave,
}

/// How a request is served. A request keeps its plan to its end, whatever the configuration is by then.
#[derive(Debug)]
pub struct Plan {
    /// The route whose policy applies and that counts the stream.
    pub route: Arc<Route>,
    /// How the response is carried.
    pub carriage: Carriage,
    /// The endpoints to try, in this order, each once.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Held until the request has left its session: its response has ended, or is a stream that runs on its own.
    pub permits: Permits,
}

/// How a response is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// As a stream if it is an event stream, otherwise as a page.
    Stream,
    /// As a page, whatever it is.
    Page,
    /// By HttpProxy, since the connection may change its protocol.
    Upgrade,
}

/// What a request occupies; dropping it releases everything.
#[derive(Debug)]
pub struct Permits {
    /// Its count as a request in flight.
    pub in_flight: InFlight,
    /// What it occupies of the limits on streams, until its stream does or it turns out to be none.
    pub stream: Option<StreamPermit>,
}

/// Counts a request in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

/// Why a request is sent to no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// It has come through this process before.
    Loop,
    /// No route matches.
    NoRoute,
    /// Its path could leave the prefix that its route adds.
    ParentSegment,
    /// The stream would exceed a limit. The client is asked to come back.
    Limited(Limit, RetryLater),
}

impl Plan {
    /// The peers of its endpoints, in the same order.
    pub(crate) fn peers(&self) -> Vec<HttpPeer> {
        self.endpoints.iter().map(|endpoint| peer(endpoint, &self.route.policy)).collect()
    }

    /// The peer of the first endpoint.
    pub(crate) fn peer(&self) -> Option<HttpPeer> {
        self.endpoints.first().map(|endpoint| peer(endpoint, &self.route.policy))
    }

    /// Leaves out the first endpoint, which has failed before anything was sent. Returns whether another is left.
    pub(crate) fn skip_endpoint(&mut self) -> bool {
        self.endpoints.drain(..1.min(self.endpoints.len()));
        !self.endpoints.is_empty()
    }
}

impl InFlight {
    /// Increments the counter.
    pub fn enter(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RefuseReason {
    /// The name in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::NoRoute => "no_route",
            Self::ParentSegment => "parent_segment",
            Self::Limited(..) => "limited",
        }
    }
}

impl From<RefuseReason> for Refusal {
    fn from(reason: RefuseReason) -> Self {
        let (status, text, proxy_status) = match reason {
            RefuseReason::Loop => (
                508,
                "the request has come through this proxy before: its upstream leads back here",
                "proxy_loop_detected",
            ),
            RefuseReason::NoRoute => (404, "no route of this proxy matches the request", "destination_not_found"),
            RefuseReason::ParentSegment => {
                (400, "the path has a segment `..`, which the route does not allow", "http_request_error")
            }
            RefuseReason::Limited(limit, _) => return limit.into(),
        };
        Self { status, text: text.into(), proxy_status }
    }
}

impl From<Limit> for Refusal {
    fn from(limit: Limit) -> Self {
        let (status, text) = match limit {
            Limit::All => (503, "the proxy carries as many streams as its limits.streams allows"),
            Limit::Descriptors => (503, "the proxy has no room for more streams"),
            Limit::Streams => (503, "the route carries as many streams as its limits.streams allows"),
            Limit::StreamsPerClient => (429, "the client has as many streams as limits.streams_per_client allows"),
            Limit::OpeningRate => (429, "streams open faster than limits.opening_rate allows"),
            Limit::OpeningRatePerClient => {
                (429, "the client opens streams faster than limits.opening_rate_per_client allows")
            }
        };
        // Each stream has a connection to the next hop, which the first of these is about (RFC 9209 §2.3.12, §2.3.23).
        let proxy_status = if status == 503 { "connection_limit_reached" } else { "http_request_denied" };
        Self { status, text: text.into(), proxy_status }
    }
}

/// An endpoint as Pingora's connectors take it.
fn peer(endpoint: &Endpoint, policy: &Policy) -> HttpPeer {
    let mut peer = HttpPeer::new(endpoint.address, endpoint.tls, endpoint.host.to_string());
    peer.options.connection_timeout = policy.timeouts.connect;
    peer.options.total_connection_timeout = policy.timeouts.connect;
    peer.options.tcp_keepalive = policy.keep_alive.map(pingora_keep_alive);
    peer
}
