//! From a configuration to what serves requests: upstreams, routes and the rules for clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{self, ClientBy, Config, OnReload};
use crate::driver::{Observer, Route};
use crate::limits::ClientLimits;
use crate::metrics::Metrics;
use crate::routing::{ClientKey, Matcher, RouteEntry, RouteTable, StreamLimits};
use crate::stream::Policy;
use crate::takeover::{ClientRules, RetryPolicy};
use crate::upstream::Upstream;

/// What a configuration says about requests.
pub(super) struct Built {
    pub(super) table: RouteTable,
    routes: Vec<Arc<Route>>,
    /// Those whose running streams follow the new rules.
    adopting: Vec<Arc<Route>>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Built {
    /// From a valid configuration. Upstreams and routes whose names `metrics` knows keep their counts, and upstreams what is
    /// known of their servers.
    pub(super) fn of(config: &Config, metrics: &Metrics, observer: &Arc<dyn Observer>) -> Self {
        let upstreams: BTreeMap<&str, Arc<Upstream>> = config
            .upstreams
            .iter()
            .map(|(name, upstream)| {
                let servers = upstream.servers.clone();
                let upstream = match metrics.watched_upstream(name) {
                    Some(known) => known.reloaded(servers),
                    None => Arc::new(Upstream::new(name, servers)),
                };
                (name.as_str(), upstream)
            })
            .collect();
        let entry = |route: &config::Route| {
            let name = config.upstream_of(route)?;
            let keep_alive = config.upstreams.get(name)?.tcp_keepalive.get();
            let policy = Policy { keep_alive, ..route.policy() };
            let streams = match metrics.watched_route(route.display_name()) {
                Some(known) => known.with_policy(policy),
                None => Route::new(route.display_name(), policy, observer.clone()),
            };
            Some(RouteEntry {
                matcher: Matcher::new(&route.matches),
                stream: route.stream,
                upstream: upstreams.get(name)?.clone(),
                streams,
                limits: stream_limits(route),
            })
        };
        let entries: Vec<RouteEntry> = config.effective_routes().iter().filter_map(entry).collect();
        let routes: Vec<_> = entries.iter().map(|entry| entry.streams.clone()).collect();
        let effective = config.effective_routes();
        let adopts = |route: &&Arc<Route>| {
            let is_this = |config: &&config::Route| config.display_name() == &*route.name;
            effective.iter().find(is_this).is_some_and(|route| route.on_reload == OnReload::Adopt)
        };
        let adopting = routes.iter().filter(adopts).cloned().collect();
        let most_streams = config.limits.streams.map(|streams| streams as u64);
        let rules = ClientRules { policy: config.client.policy(), trusted_proxies: config.trusted_proxies() };
        let table = RouteTable::new(entries).with_rules(rules).with_most_streams(most_streams);
        Self { table, routes, adopting, upstreams: upstreams.into_values().collect() }
    }

    /// Exports the counters; returns the table, and the routes whose running streams follow the new rules.
    pub(super) fn watched_by(self, metrics: &Metrics) -> (RouteTable, Vec<Arc<Route>>) {
        metrics.watch(self.routes, self.upstreams);
        (self.table, self.adopting)
    }
}

fn stream_limits(route: &config::Route) -> StreamLimits {
    let limits = &route.limits;
    let client_key = match &limits.client {
        ClientBy::Address => ClientKey::Address,
        // The check of the configuration leaves one of the three.
        ClientBy::Named(names) => {
            let header = names.header.as_ref().map(|name| ClientKey::Header(name.to_ascii_lowercase()));
            let cookie = names.cookie.clone().map(ClientKey::Cookie);
            header.or(cookie).or_else(|| names.query.clone().map(ClientKey::Query)).unwrap_or_default()
        }
    };
    StreamLimits {
        streams: limits.streams.map(|streams| streams as u64),
        rate: limits.opening_rate.map(|rate| rate.0),
        client: ClientLimits {
            streams: limits.streams_per_client,
            rate: limits.opening_rate_per_client.map(|rate| rate.0),
        },
        client_key,
        answer: RetryPolicy { answer: limits.on_limit, after: route.retry_after.0 },
    }
}
