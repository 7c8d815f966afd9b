//! The table of routes: which one a request belongs to, and how its response is carried.

use std::sync::Arc;
use std::time::Duration;

use pingora::http::{Method, RequestHeader};

use super::limits::StreamLimits;
use super::matcher::Matcher;
use crate::config::StreamMode;
use crate::driver;
use crate::headers;
use crate::takeover::{Carriage, ClientRules, RefuseReason};
use crate::upstream::Upstream;

/// A route of the configuration, ready to serve.
#[derive(Debug)]
pub struct RouteEntry {
    /// Which requests it takes.
    pub matcher: Matcher,
    /// Which of its requests are streams.
    pub stream: StreamMode,
    /// The upstream of its requests.
    pub upstream: Arc<Upstream>,
    /// The policy and the counters of its streams.
    pub streams: Arc<driver::Route>,
    /// How many of them there may be, and what others get.
    pub limits: StreamLimits,
}

/// All routes, in the order of the configuration, of which the first that matches serves; and the rules for clients, which a
/// reload replaces with them.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<RouteEntry>>,
    rules: Arc<ClientRules>,
    most_streams: Option<u64>,
}

impl RouteTable {
    /// A table of these routes, with the default rules for clients.
    pub fn new(routes: Vec<RouteEntry>) -> Self {
        Self { routes: routes.into_iter().map(Arc::new).collect(), rules: Arc::default(), most_streams: None }
    }

    /// With these rules for clients.
    #[must_use]
    pub fn with_rules(self, rules: ClientRules) -> Self {
        Self { rules: Arc::new(rules), ..self }
    }

    /// The rules for clients.
    pub fn rules(&self) -> &Arc<ClientRules> {
        &self.rules
    }

    /// The same, with a limit on the streams of all routes.
    #[must_use]
    pub fn with_most_streams(self, most_streams: Option<u64>) -> Self {
        Self { most_streams, ..self }
    }

    /// The limit on the streams of all routes.
    pub fn most_streams(&self) -> Option<u64> {
        self.most_streams
    }

    /// Decides on a request whose head has been normalized: the only place where this happens, for both request paths.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn select(&self, request: &RequestHeader) -> Result<(&Arc<RouteEntry>, Carriage), RefuseReason> {
        if headers::is_loop(&request.headers) {
            return Err(RefuseReason::Loop);
        }
        // `*` stands for the server as a whole (RFC 9112 §3.2.4): the route of the root matches it.
        let path = match request.raw_path() {
            b"*" => b"/",
            path => path,
        };
        let route = self.routes.iter().find(|route| route.matcher.matches(path, request));
        let route = route.ok_or(RefuseReason::NoRoute)?;
        if let Some(rules) = &route.streams.policy.heads
            && rules.path.as_ref().is_some_and(|change| change.is_left_by(path))
        {
            return Err(RefuseReason::ParentSegment);
        }
        Ok((route, route.carriage(request)))
    }

    /// The longest `timeouts.write` of all routes; `None` where one of them has no limit.
    pub fn longest_write(&self) -> Option<Duration> {
        let limits = self.routes.iter().map(|route| route.streams.policy.timeouts.write);
        limits.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl RouteEntry {
    fn carriage(&self, request: &RequestHeader) -> Carriage {
        let is_stream = match self.stream {
            StreamMode::Accept => headers::accepts_event_stream(request),
            StreamMode::Always => true,
            StreamMode::Never => false,
        };
        match is_stream && request.method != Method::HEAD {
            _ if headers::asks_upgrade(request) => Carriage::Upgrade,
            true => Carriage::Stream,
            false => Carriage::Page,
        }
    }
}
