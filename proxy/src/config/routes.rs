//! `routes`: which requests go to which upstream, and which of them are carried as streams.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::client::{MAX_HEAD, MIN_HEAD};
use super::error::Problem;
use super::limits::{RetryRange, RouteLimits};
use super::names::check_name;
use super::streams::{HeartbeatConfig, TimeoutConfig};
use super::upstreams::Upstream;
use super::values;
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
    /// The name in metrics and logs; default: the path prefix.
    pub name: Option<String>,
    /// Which of them are carried as streams.
    #[serde(default)]
    pub stream: StreamMode,
    /// Heartbeats on silent streams.
    #[serde(default)]
    pub heartbeat: HeartbeatConfig,
    /// How long each kind of waiting may last.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Limits on the size of responses, and on streams.
    #[serde(default)]
    pub limits: RouteLimits,
    /// When clients come back that cannot be served now.
    #[serde(default)]
    pub retry_after: RetryRange,
}

/// Which requests a route takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map: `match: {path_prefix: /events}`")]
pub struct Match {
    /// The path begins with this.
    pub path_prefix: String,
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

impl Default for Match {
    fn default() -> Self {
        Self { path_prefix: "/".to_owned() }
    }
}

impl Route {
    /// The name in metrics and logs.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.matches.path_prefix)
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
            },
            idle_ignores_comments: timeouts.idle_ignores_comments,
            keep_alive: None,
            response_head_bytes: self.limits.response_header.bytes(),
        }
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
    if !route.matches.path_prefix.starts_with('/') {
        let what = format!("is `{}`", route.matches.path_prefix);
        return Err(Problem::new(&["match", "path_prefix"], what, "begin it with a slash"));
    }
    match &route.name {
        Some(name) => check_name(&["name"], name)?,
        None => check_name(&["match", "path_prefix"], &route.matches.path_prefix).map_err(|problem| {
            problem.with_remedy("give the route a name: for metrics and logs, which is the path prefix otherwise")
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
