//! The Prometheus metrics. Running streams are counted in [`crate::driver::Totals`]; this adds what happens at their
//! start and end, and renders everything on request.

mod process;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::driver::{Ended, Observer, Route, StreamInfo, clock};
use crate::failure::Failure;
use crate::limits::Limit;
use crate::stream::EndReason;
use crate::upstream::Upstream;
use crate::wire::proxy_protocol::Violation;
use crate::wire::refusal::Refusal;

/// Why the proxy closes HTTP/2 connections: without streams, vanished, slow, flooding, with malformed requests.
pub const CLOSE_REASONS: [&str; 5] = ["http2_idle", "http2_vanished", "http2_slow", "http2_flood", "http2_malformed"];

/// Why it closes a connection whose TLS handshake takes too long.
pub const TLS_SLOW: &str = "tls_slow";

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    watched: Arc<Mutex<Watched>>,
    ended: Family<EndLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    first_byte: Family<RouteLabels, Histogram>,
    first_event: Family<RouteLabels, Histogram>,
    duration: Family<RouteLabels, Histogram>,
    refused: Family<RefusedLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    log_lost: Counter,
    dropped_fields: Counter,
    closed_connections: Family<RefusedLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    reload_successful: Gauge,
    reload_seconds: Gauge,
    draining: Gauge,
    drain_left: Gauge,
    drain_cut: Counter,
}

/// What counts by itself.
#[derive(Default)]
struct Watched {
    /// Those of the configuration, and those that a reload has removed: their streams may still run, and counters do not vanish.
    routes: Vec<Arc<Route>>,
    upstreams: Vec<Arc<Upstream>>,
    /// Upstreams that a reload has removed, while they serve streams.
    former: Vec<Arc<Upstream>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    route: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    route: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    status: u16,
}

impl Metrics {
    /// Metrics with nothing counted.
    pub fn new() -> Arc<Self> {
        Self::with_log(Counter::default())
    }

    /// The same, with the counter of log lines that were dropped.
    pub fn with_log(log_dropped: Counter) -> Arc<Self> {
        let mut registry = Registry::with_prefix("sse_proxy");
        let watched = Arc::<Mutex<Watched>>::default();
        let ended = Family::<EndLabels, Counter>::default();
        registry.register("streams_ended", "Streams that ended, by reason", ended.clone());
        let failures = Family::<FailureLabels, Counter>::default();
        let help = "Requests that got no response head from the upstream, by reason";
        registry.register("upstream_failures", help, failures.clone());
        let first_byte = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            // 1 ms to 65 s.
            Histogram::new(exponential_buckets(0.001, 4.0, 9))
        });
        let help = "From a stream's request to the upstream's response head";
        registry.register("first_byte_seconds", help, first_byte.clone());
        let first_event = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            // 1 ms to 262 s: a model may think for minutes.
            Histogram::new(exponential_buckets(0.001, 4.0, 10))
        });
        let help = "From a stream's request to the end of its first event";
        registry.register("time_to_first_event_seconds", help, first_event.clone());
        let duration = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            // 1 s to 18 h.
            Histogram::new(exponential_buckets(1.0, 4.0, 9))
        });
        registry.register("stream_duration_seconds", "Age of streams at their end", duration.clone());
        let refused = Family::<RefusedLabels, Counter>::default();
        registry.register("refused", "Requests that were sent to no upstream, by reason", refused.clone());
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests by response status, streams included", requests.clone());
        let log_lost = Counter::default();
        registry.register("access_log_lost_lines", "Access log lines that could not be written", log_lost.clone());
        registry.register(
            "log_dropped_lines",
            "Log lines that were dropped because standard error was not read in time",
            log_dropped,
        );
        let dropped_fields = Counter::default();
        let help = "Request fields that were not passed on because their names have an underscore";
        registry.register("dropped_fields", help, dropped_fields.clone());
        let closed_connections = Family::<RefusedLabels, Counter>::default();
        let help = "Client connections that the proxy closed, by reason";
        registry.register("closed_connections", help, closed_connections.clone());
        // Starts each at zero, so that rates are right from the first increment.
        for reason in CLOSE_REASONS.into_iter().chain([TLS_SLOW]).chain(Violation::NAMES) {
            let _ = closed_connections.get_or_create(&RefusedLabels { reason });
        }
        let reloads = Family::<OutcomeLabels, Counter>::default();
        registry.register("reloads", "Reloads of the configuration, by outcome", reloads.clone());
        for outcome in ["success", "failure"] {
            let _ = reloads.get_or_create(&OutcomeLabels { outcome });
        }
        let (reload_successful, reload_seconds) = (Gauge::default(), Gauge::default());
        let help = "Whether the last reload succeeded; 1 before the first";
        registry.register("config_last_reload_successful", help, reload_successful.clone());
        let help = "When the configuration in force was read, in seconds since 1970";
        registry.register("config_last_reload_seconds", help, reload_seconds.clone());
        let (draining, drain_left, drain_cut) = (Gauge::default(), Gauge::default(), Counter::default());
        registry.register("draining", "Whether the process drains and will exit", draining.clone());
        let help = "Streams that a drain has not ended yet";
        registry.register("drain_streams_left", help, drain_left.clone());
        let help = "Streams that a drain ended without a complete response";
        registry.register("drain_streams_cut", help, drain_cut.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("pingora", "0.9")]);
        registry.register("build", "What is running", build);
        registry.register_collector(Box::new(WatchedCollector(watched.clone())));
        Registry::register_collector(&mut registry, Box::new(process::ProcessCollector));
        Arc::new(Self {
            registry,
            watched,
            ended,
            failures,
            first_byte,
            first_event,
            duration,
            refused,
            requests,
            log_lost,
            dropped_fields,
            closed_connections,
            reloads,
            reload_successful,
            reload_seconds,
            draining,
            drain_left,
            drain_cut,
        })
    }

    /// Sets the routes and upstreams whose counters are exported, in place of earlier ones, and starts each reason at zero, so
    /// that rates are right from the first increment. A route that is not among them any more is exported to the end, and an
    /// upstream while it serves streams.
    pub fn watch(&self, routes: Vec<Arc<Route>>, upstreams: Vec<Arc<Upstream>>) {
        for route in &routes {
            for reason in EndReason::ALL {
                let _ = self.ended.get_or_create(&EndLabels { route: route.name.to_string(), reason: reason.as_str() });
            }
            for &reason in Failure::NAMES {
                let _ = self.failures.get_or_create(&FailureLabels { route: route.name.to_string(), reason });
            }
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut watched.routes, routes);
        for route in former {
            if !watched.routes.iter().any(|known| known.name == route.name) {
                watched.routes.push(route);
            }
        }
        let former = std::mem::replace(&mut watched.upstreams, upstreams);
        watched.former.extend(former);
        let Watched { upstreams, former, .. } = &mut *watched;
        former.retain(|former| !upstreams.iter().any(|known| known.name() == former.name()));
    }

    /// A route of this name whose streams have been counted before.
    pub fn watched_route(&self, name: &str) -> Option<Arc<Route>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.routes.iter().find(|route| &*route.name == name).cloned()
    }

    /// An upstream of this name whose streams are counted.
    pub fn watched_upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.upstreams.iter().chain(&watched.former).find(|upstream| upstream.name() == name).cloned()
    }

    /// Records that the configuration is in force: the process has started with it.
    pub fn configured(&self) {
        self.reload_successful.set(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.reload_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// Counts a reload.
    pub fn reloaded(&self, is_success: bool) {
        let outcome = if is_success { "success" } else { "failure" };
        self.reloads.get_or_create(&OutcomeLabels { outcome }).inc();
        match is_success {
            true => self.configured(),
            false => drop(self.reload_successful.set(0)),
        }
    }

    /// Counts a request that was refused before an upstream was chosen.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
        // A mistake in a setup, where all others are the client's. Both request paths come through here.
        if reason == Refusal::TlsOnPlainPort.as_str() {
            log::warn!(
                "request refused: side=downstream reason={reason}: the client speaks TLS to a listener without tls; use \
                 http:// there, or add tls to the listener"
            );
        }
    }

    /// Counts a request that was answered.
    pub fn request(&self, status: u16) {
        self.requests.get_or_create(&RequestLabels { status }).inc();
    }

    /// Counts a client's connection that the proxy closed.
    pub fn closed_connection(&self, reason: &'static str) {
        self.closed_connections.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts fields of a request that were not passed on.
    pub fn dropped_fields(&self, count: usize) {
        if count > 0 {
            self.dropped_fields.inc_by(count as u64);
        }
    }

    /// Shows a drain that has this many streams left to end.
    pub fn draining(&self, left: usize) {
        self.draining.set(1);
        self.drain_left.set(i64::try_from(left).unwrap_or(i64::MAX));
    }

    /// The counter of access log lines that were lost.
    pub fn log_lost(&self) -> Counter {
        self.log_lost.clone()
    }

    /// Everything, in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Formatting into a string fails only if a metric's own formatting does.
            Err(fmt::Error) => "# EOF\n".to_owned(),
        }
    }
}

impl Observer for Metrics {
    fn opened(&self, route: &str, info: &StreamInfo) {
        self.first_byte
            .get_or_create(&RouteLabels { route: route.to_owned() })
            .observe(info.first_byte().as_secs_f64());
    }

    fn first_event(&self, route: &str, _: &StreamInfo, after: Duration) {
        self.first_event.get_or_create(&RouteLabels { route: route.to_owned() }).observe(after.as_secs_f64());
    }

    fn ended(&self, ended: &Ended<'_>) {
        if ended.reason == EndReason::Drain && !ended.clean {
            self.drain_cut.inc();
        }
        let route = ended.route.to_owned();
        self.ended.get_or_create(&EndLabels { route: route.clone(), reason: ended.reason.as_str() }).inc();
        self.duration.get_or_create(&RouteLabels { route }).observe(ended.duration.as_secs_f64());
    }

    fn failed(&self, route: &str, failure: &Failure) {
        let route = route.to_owned();
        self.failures.get_or_create(&FailureLabels { route, reason: failure.as_str() }).inc();
    }
}

/// Exports the counters of every route and every endpoint.
struct WatchedCollector(Arc<Mutex<Watched>>);

impl fmt::Debug for WatchedCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WatchedCollector")
    }
}

impl Collector for WatchedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Read = fn(&crate::driver::Totals) -> u64;
        let gauges: [(&str, &str, Read); 1] =
            [("streams_active", "Streams running", |totals| totals.active.load(Ordering::Relaxed))];
        let counters: [(&str, &str, Read); 4] = [
            ("streams_opened", "Streams opened", |totals| totals.opened.load(Ordering::Relaxed)),
            ("events", "Events passed on", |totals| totals.events.load(Ordering::Relaxed)),
            ("heartbeats", "Heartbeats sent", |totals| totals.heartbeats.load(Ordering::Relaxed)),
            ("body_bytes", "Body bytes passed on", |totals| totals.bytes.load(Ordering::Relaxed)),
        ];
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Watched { routes, upstreams, former } = &mut *watched;
        former.retain(|upstream| upstream.active_streams().values().any(|active| *active > 0));
        for (name, help, read) in gauges {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for route in routes.iter() {
                let labels = [("route", &*route.name)];
                let value = i64::try_from(read(&route.totals)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, read) in counters {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for route in routes.iter() {
                let labels = [("route", &*route.name)];
                ConstCounter::new(read(&route.totals)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let (name, help) = ("event_gap_seconds", "Gaps between the events of a stream, on routes that measure them");
        let kind = prometheus_client::metrics::MetricType::Histogram;
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for route in routes.iter() {
            let Some(gaps) = route.totals.event_gaps.get() else { continue };
            let (sum, buckets) = gaps.snapshot();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("route", &*route.name)];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)?;
        }
        encode_limits(routes, &mut encoder)?;
        let (name, help) = ("upstream_streams_active", "Streams running, by the address of the server");
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for upstream in upstreams.iter().chain(former.iter()) {
            for (address, active) in upstream.active_streams() {
                let labels = [("upstream", upstream.name().to_owned()), ("address", address.to_string())];
                let value = i64::try_from(active).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Exports what the limits on streams have counted.
fn encode_limits(routes: &[Arc<Route>], encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    use prometheus_client::metrics::MetricType::{Counter, Gauge};
    let help = "Requests for streams that were refused, by limit";
    let mut metric = encoder.encode_descriptor("limited", help, None, Counter)?;
    for route in routes {
        for limit in Limit::ALL {
            let labels = [("route", &*route.name), ("limit", limit.as_str())];
            ConstCounter::new(route.totals.limits().refused(limit)).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Clients with streams or a rate that a limit counts";
    let mut metric = encoder.encode_descriptor("limited_clients", help, None, Gauge)?;
    for route in routes {
        let tracked = route.totals.limits().clients().map_or(0, |clients| clients.tracked(clock::now()));
        let value = i64::try_from(tracked).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(metric.encode_family(&[("route", &*route.name)])?)?;
    }
    let help = "Streams admitted without the limits of their clients, since the table of clients was full";
    let mut metric = encoder.encode_descriptor("untracked_streams", help, None, Counter)?;
    for route in routes {
        let untracked = route.totals.limits().clients().map_or(0, |clients| clients.untracked());
        ConstCounter::new(untracked).encode(metric.encode_family(&[("route", &*route.name)])?)?;
    }
    Ok(())
}
