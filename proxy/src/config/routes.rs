//! `routes`: which requests go to which upstream, and which of them are carried as streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::client::{MAX_HEAD, MIN_HEAD};
use super::error::Problem;
use super::fields::{self, PathText};
use super::heads::{self, HeadersConfig};
use super::limits::{RetryRange, RouteLimits};
use super::matching::Match;
use super::names::check_name;
use super::retry_after::OnUnavailable;
use super::streams::{HeartbeatConfig, TimeoutConfig};
use super::upstreams::Upstream;
use super::values;
use crate::headers::{HeadRules, PathChange};
use crate::stream::{HeartbeatPolicy, Policy, Timeouts};

/// A route: which requests go to which upstream, and their policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map, such as `{match: {path_prefix: /events}, stream: always}`")]
pub struct Route {
    /// Which requests; default: all.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// The upstream they go to; default: the only one.
    pub upstream: Option<String>,
    /// The name in metrics and logs; default: the path that `match` compares.
    pub name: Option<String>,
    /// Changes to the fields of requests and responses.
    #[serde(default)]
    pub headers: HeadersConfig,
    /// Whether what `match` compares of the path is removed from it (`proxy_pass` with a path).
    #[serde(default)]
    pub strip_prefix: bool,
    /// Put in front of the path.
    #[serde(default, deserialize_with = "fields::some")]
    pub add_prefix: Option<PathText>,
    /// Which of them are carried as streams.
    #[serde(default)]
    pub stream: StreamMode,
    /// Heartbeats on silent streams.
    #[serde(default)]
    pub heartbeat: HeartbeatConfig,
    /// How long each kind of waiting may last.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Which rules running streams follow after a reload.
    #[serde(default)]
    pub on_reload: OnReload,
    /// Limits on the size of responses, and on streams.
    #[serde(default)]
    pub limits: RouteLimits,
    /// What is measured beside what always is.
    #[serde(default)]
    pub metrics: RouteMetrics,
    /// What an `EventSource` gets when the upstream fails.
    #[serde(default)]
    pub on_unavailable: OnUnavailable,
    /// When clients come back that cannot be served now.
    #[serde(default)]
    pub retry_after: RetryRange,
}

/// What is measured of a route's streams beside what always is.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map: `metrics: {event_gaps: true}`")]
pub struct RouteMetrics {
    /// The gaps between events.
    pub event_gaps: bool,
}

/// Which rules running streams follow after a reload.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnReload {
    /// Those that they began with.
    #[default]
    Keep,
    /// The new ones.
    Adopt,
}

/// Which requests of a route are carried as streams.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// Those whose `Accept` names `text/event-stream`, as `EventSource` sends it.
    #[default]
    Accept,
    /// All of them; for endpoints that stream whatever the request accepts, such as model servers on POST.
    Always,
    /// None.
    Never,
}

impl Route {
    /// The name in metrics and logs.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.matches.path_key().1)
    }

    /// The policy of this route's streams, without the settings of the upstream.
    pub fn policy(&self) -> Policy {
        let timeouts = &self.timeouts;
        let heartbeat = self.heartbeat.render().ok();
        Policy {
            heartbeat: self
                .heartbeat
                .interval
                .get()
                .and_then(|interval| heartbeat.map(|heartbeat| HeartbeatPolicy { interval, heartbeat })),
            timeouts: Timeouts {
                connect: timeouts.connect.get(),
                first_byte: timeouts.first_byte.get(),
                idle: timeouts.idle.get(),
                read: timeouts.read.get(),
                write: timeouts.write.get(),
                lifetime: timeouts.lifetime.get(),
                lifetime_jitter: timeouts.lifetime_jitter.0 / 100.0,
                lifetime_retry: timeouts.lifetime_retry.get(),
            },
            idle_ignores_comments: timeouts.idle_ignores_comments,
            keep_alive: None,
            response_head_bytes: self.limits.response_header.bytes(),
            event_gaps: self.metrics.event_gaps,
            backend_heartbeat: None,
            heads: self.head_rules(),
            retry_unavailable: (self.on_unavailable == OnUnavailable::RetryLater)
                .then_some(self.retry_after.0.min..=self.retry_after.0.max),
        }
    }

    /// What the route changes in heads; `None` if nothing.
    fn head_rules(&self) -> Option<Arc<HeadRules>> {
        let strip = if self.strip_prefix { self.matches.path_key().1 } else { "" };
        let add = self.add_prefix.as_ref().map_or("", |path| path.0.as_str());
        let path = (self.strip_prefix || self.add_prefix.is_some()).then(|| PathChange::new(strip, add));
        let (request, response) = self.headers.compile();
        let rules = HeadRules { path, request, response };
        (!rules.is_empty()).then(|| Arc::new(rules))
    }
}

/// Checks the routes beside the upstreams.
pub(super) fn check(routes: &[Route], upstreams: &BTreeMap<String, Upstream>) -> Result<(), Problem> {
    for (at, route) in routes.iter().enumerate() {
        let at = at.to_string();
        check_route(route, upstreams).map_err(|problem| problem.under(&["routes", &at]))?;
        let name = route.display_name();
        if routes.iter().filter(|other| other.display_name() == name).count() > 1 {
            let what = format!("has the same name as another route: `{name}`");
            let remedy = "set a different name: for each, which metrics and logs use";
            return Err(Problem::new(&["routes", &at], what, remedy));
        }
    }
    Ok(())
}

fn check_route(route: &Route, upstreams: &BTreeMap<String, Upstream>) -> Result<(), Problem> {
    let known = upstreams.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match &route.upstream {
        Some(name) if !upstreams.contains_key(name) => {
            let what = format!("names `{name}`, which is not under upstreams");
            return Err(Problem::new(&["upstream"], what, format!("use one of: {known}")));
        }
        None if upstreams.len() != 1 => {
            let what = "has no upstream, and there is more than one to choose from";
            return Err(Problem::new(&[], what, format!("add upstream: with one of: {known}")));
        }
        _ => {}
    }
    route.matches.check().map_err(|problem| problem.under(&["match"]))?;
    route.headers.check()?;
    heads::check_prefixes(route.strip_prefix, route.add_prefix.as_ref().map(|path| path.0.as_str()), &route.matches)?;
    let (path_key, path) = route.matches.path_key();
    match &route.name {
        Some(name) => check_name(&["name"], name)?,
        None => check_name(&["match", path_key], path).map_err(|problem| {
            problem.with_remedy("give the route a name: for metrics and logs, which is the path otherwise")
        })?,
    }
    let response_header = route.limits.response_header;
    if !(MIN_HEAD.bytes()..=MAX_HEAD.bytes()).contains(&response_header.bytes()) {
        let what = format!("is {response_header}, and has to be between {MIN_HEAD} and {MAX_HEAD}");
        return Err(Problem::new(&["limits", "response_header"], what, "write a size such as 64KiB"));
    }
    route.limits.check().map_err(|problem| problem.under(&["limits"]))?;
    if let Err(source) = route.heartbeat.render() {
        return Err(Problem::new(&["heartbeat", "payload"], "does not fit the style", source.to_string()));
    }
    Ok(())
}

pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    values::list(deserializer, "a list: `routes: [{match: {path_prefix: /events}}]`")
}
