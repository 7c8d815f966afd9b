//! From a configuration to what serves requests: upstreams, routes and the rules for clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, OnReload};
use crate::driver::{Observer, Route};
use crate::metrics::Metrics;
use crate::routing::{Matcher, RouteEntry, RouteTable};
use crate::stream::Policy;
use crate::takeover::ClientRules;
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
        let entry = |route: &crate::config::Route| {
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
            })
        };
        let entries: Vec<RouteEntry> = config.effective_routes().iter().filter_map(entry).collect();
        let routes: Vec<_> = entries.iter().map(|entry| entry.streams.clone()).collect();
        let effective = config.effective_routes();
        let adopts = |route: &&Arc<Route>| {
            let is_this = |config: &&crate::config::Route| config.display_name() == &*route.name;
            effective.iter().find(is_this).is_some_and(|route| route.on_reload == OnReload::Adopt)
        };
        let adopting = routes.iter().filter(adopts).cloned().collect();
        let rules = ClientRules { policy: config.client.policy(), trusted_proxies: config.trusted_proxies() };
        let table = RouteTable::new(entries).with_rules(rules);
        Self { table, routes, adopting, upstreams: upstreams.into_values().collect() }
    }

    /// Exports the counters; returns the table, and the routes whose running streams follow the new rules.
    pub(super) fn watched_by(self, metrics: &Metrics) -> (RouteTable, Vec<Arc<Route>>) {
        metrics.watch(self.routes, self.upstreams);
        (self.table, self.adopting)
    }
}
