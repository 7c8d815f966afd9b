//! Builds the server from its parts and runs it until a signal.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use log::Level;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora::services::listening::Service;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::certificate;
use crate::config::{self, ClientBy, Config, DriverConfig, Problem};
use crate::connections::{Connections, TlsListeners};
use crate::driver::descriptors;
use crate::driver::{
    BoundListener, Driver, Drivers, Ended, Observer, Route, StreamInfo, StreamRegistry, reactor_threads,
};
use crate::failure::Failure;
use crate::fallback::Fallback;
use crate::gateway::Gateway;
use crate::headers::TrustedProxies;
use crate::limits::ClientLimits;
use crate::listen::{self, Bound, ListenError, Prebound};
use crate::logging::ProcessLog;
use crate::metrics::Metrics;
use crate::routing::{ClientKey, RouteEntry, RouteTable, Router, StreamLimits};
use crate::stream::Policy;
use crate::sys;
use crate::takeover::{RequestHandler, RetryPolicy, Takeover};
use crate::threads::{self, Essential};
use crate::upstream::Upstream;

/// The limit of a drain for which none is configured, so that the process always exits.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// How often a drain checks whether anything is left.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How long streams that are being cut may take after the drain's limit.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// How long HTTP/2 connections may take to send the ends of their streams, once nothing else is left.
const HTTP2_END_LIMIT: Duration = Duration::from_secs(5);

/// How long flushing each log may take when the process exits.
pub const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// The proxy cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}; check the path at access_log and its permissions")]
    AccessLog(#[source] io::Error),
    /// Pingora's server thread ended without a signal.
    #[error("the server stopped unexpectedly; see the log for the cause")]
    Stopped,
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    System(#[from] io::Error),
}

/// Checks the files that the configuration names: certificates, keys, the access log. Returns all warnings.
///
/// # Errors
/// When one of them cannot be used.
pub fn check(config: &Config) -> Result<Vec<Problem>, Problem> {
    let mut warnings = config.warnings();
    warnings.extend(certificate::check(&config.listen)?);
    AccessLog::check(&config.access_log)?;
    Ok(warnings)
}

/// Binds everything, serves until SIGTERM, SIGINT or SIGQUIT, drains, and returns once nothing is left or the drain's
/// limit has passed. A second signal cuts the drain short.
///
/// # Errors
/// When something cannot be bound or opened; nothing has been served in that case.
pub fn run(config: &Config, log: &ProcessLog) -> Result<(), ServerError> {
    if !sys::tune_allocator() {
        log::warn!(
            "allocator not tuned: side=internal: it keeps its own settings and returns memory later than measured"
        );
    }
    let metrics = Metrics::with_log(log.dropped());
    let access_log = AccessLog::open(&config.access_log, metrics.log_lost()).map_err(ServerError::AccessLog)?;
    let bound = config.listen.iter().map(listen::bind).collect::<Result<Vec<_>, _>>()?;
    let admin_bound = config.admin.as_ref().map(listen::bind_admin).transpose()?;
    raise_descriptor_limit();

    let observer = Arc::new(StreamObserver { metrics: metrics.clone(), access_log });
    let (lines, log) = (observer.clone(), log.clone());
    threads::flush_before_exit(move || {
        lines.access_log.flush(FLUSH_LIMIT);
        log.flush(FLUSH_LIMIT);
    });
    let threads = config.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let driver = match config.driver {
        DriverConfig::Parked => Driver::Parked,
        DriverConfig::Task => Driver::Task,
    };
    let client = config.client.policy();
    let drivers = Drivers::new(driver, reactor_threads(threads));
    let takeover = Arc::new(Takeover::new(drivers).trusting(config.trusted_proxies()).with_body_timeout(client.body));
    let upstreams = upstreams(config);
    let routes = routes(config, &upstreams, &observer);
    metrics.watch(routes.iter().map(|route| route.streams.clone()).collect(), upstreams.into_values().collect());
    let most_streams = config.limits.streams.map(|streams| streams as u64);
    let table = RouteTable::new(routes).with_most_streams(most_streams);
    let router = Arc::new(Router::new(table).counting(takeover.registry().clone()));
    let gateway = Gateway::new(router.clone(), takeover.clone(), metrics.clone(), client);
    let open_http2 = Arc::<AtomicUsize>::default();
    let draining = Arc::new(AtomicBool::new(false));

    let limit = config.drain.timeout.get().unwrap_or(LONGEST_DRAIN);
    let mut server = Server::new_with_opt_and_conf(None, server_conf(threads, limit));
    for bound in &bound {
        log::info!("listening on {} ({})", bound.address, bound.protocol());
    }
    let conf = server.configuration.clone();
    let (mut listeners, mut handlers) = (Vec::new(), Vec::new());
    // HTTP/2 without TLS is a setting of the service, not of the listener.
    let (h2c, others): (Vec<_>, Vec<_>) = bound.into_iter().partition(|bound| bound.h2c);
    for (bound, h2c) in [(others, false), (h2c, true)] {
        // The reactors accept plain connections; Pingora accepts TLS, and all connections when there are no reactors.
        let by_reactors = |bound: &Bound| driver == Driver::Parked && !bound.is_tls();
        let (plain, others): (Vec<_>, Vec<_>) = bound.into_iter().partition(by_reactors);
        let application = || {
            let app = http_proxy(&conf, gateway.clone());
            let (options, unacknowledged) = (listen::h2_options(&client.head), router.table().longest_write());
            Connections::new(app, options, h2c, unacknowledged, client, metrics.clone(), open_http2.clone())
        };
        if !plain.is_empty() {
            let (handler, handed_off) = RequestHandler::new(Arc::new(gateway.clone()), client);
            for bound in plain {
                let handler = handler.expecting(bound.proxy_protocol);
                listeners.push(takeover.listen(bound.into_listener(), &handler)?);
            }
            server.add_service(Fallback::new(application(), handed_off));
            handlers.push(handler);
        }
        if !others.is_empty() {
            server.add_service(proxy_service(application(), others, takeover.trusted_proxies().clone()));
        }
    }
    if let Some(bound) = admin_bound {
        log::info!("admin on {}", bound.address);
        let mut service = Service::new("admin".to_owned(), Admin::new(metrics, draining.clone()));
        service.add_tcp(&bound.address.to_string());
        service.threads = Some(1);
        server.add_service(Prebound::until_exit(service, vec![bound]));
    }

    let (finished, wait) = channel();
    let registry = takeover.registry().clone();
    let in_flight = router.in_flight().clone();
    let watch = SignalWatch {
        listeners: Mutex::new(listeners),
        handlers,
        draining,
        registry,
        limit,
        in_flight,
        open_http2,
        finished,
    };
    threads::spawn("server", move || server.run(RunArgs { shutdown_signal: Box::new(watch) }))?;
    // The signal watch sends once, at the end of the drain.
    let outcome = wait.recv().map_err(|_| ServerError::Stopped);
    observer.access_log.flush(FLUSH_LIMIT);
    outcome
}

fn upstreams(config: &Config) -> BTreeMap<&str, Arc<Upstream>> {
    let upstreams = config.upstreams.iter();
    upstreams.map(|(name, upstream)| (name.as_str(), Arc::new(Upstream::new(name, upstream.servers.clone())))).collect()
}

fn routes(
    config: &Config,
    upstreams: &BTreeMap<&str, Arc<Upstream>>,
    observer: &Arc<StreamObserver>,
) -> Vec<RouteEntry> {
    let routes = config.effective_routes();
    routes
        .iter()
        .filter_map(|route| {
            let name = config.upstream_of(route)?;
            let keep_alive = config.upstreams.get(name)?.tcp_keepalive.get();
            let policy = Policy { keep_alive, ..route.policy() };
            Some(RouteEntry {
                path_prefix: route.matches.path_prefix.clone(),
                stream: route.stream,
                upstream: upstreams.get(name)?.clone(),
                streams: Route::new(route.display_name(), policy, observer.clone()),
                limits: stream_limits(route),
            })
        })
        .collect()
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

fn server_conf(threads: usize, drain_limit: Duration) -> ServerConf {
    ServerConf {
        threads,
        // A connection, its requests and its streams stay on one thread, without wakeups across threads.
        work_stealing: false,
        // An upgrade tries each address of its upstream once, and stops when none is left.
        max_retries: usize::MAX,
        // Pingora sleeps through its grace period; the process exits earlier, as soon as nothing is left.
        grace_period_seconds: Some(drain_limit.as_secs() + 2 * DRAIN_MARGIN.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// The application that serves the connections outside of the reactors.
type Application = Connections<HttpProxy<Gateway>>;

fn proxy_service(
    application: Application,
    mut bound: Vec<Bound>,
    trusted_proxies: TrustedProxies,
) -> Prebound<Service<Application>> {
    let mut tls = TlsListeners::default();
    for bound in &mut bound {
        tls.add(bound.address, bound.proxy_protocol, bound.take_acceptor());
    }
    let mut service = Service::new("proxy".to_owned(), application.with_listeners(tls, trusted_proxies));
    service.set_connection_filter(Arc::new(listen::WhileDescriptorsLast));
    for bound in &bound {
        service.add_listener(bound.endpoint());
    }
    Prebound::new(service, bound)
}

/// Raises the descriptor limit to the maximum: each stream needs two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            descriptors::reserve(limit.maximum);
            let descriptors = limit.maximum.map_or("unlimited".to_owned(), |limit| limit.to_string());
            log::info!("descriptor limit {descriptors}; a stream takes two");
        }
        Err(error) => {
            descriptors::reserve(limit.current);
            log::warn!(
                "descriptor limit not raised: side=internal: it stays at {:?}, about half as many streams: {error}",
                limit.current
            );
        }
    }
}

/// Reports streams to the metrics and the access log.
struct StreamObserver {
    metrics: Arc<Metrics>,
    access_log: AccessLog,
}

impl Observer for StreamObserver {
    fn opened(&self, route: &str, info: &StreamInfo) {
        self.metrics.opened(route, info);
    }

    fn ended(&self, ended: &Ended<'_>) {
        self.metrics.ended(ended);
        self.access_log.ended(ended);
    }

    fn failed(&self, route: &str, failure: &Failure) {
        self.metrics.failed(route, failure);
        // A client that closes its connection is not an error.
        let level = if matches!(failure, Failure::ClientGone { .. }) { Level::Debug } else { Level::Warn };
        let (side, reason) = (failure.side().as_str(), failure.as_str());
        let source = std::error::Error::source(failure).map(|source| format!(": {source}")).unwrap_or_default();
        log::log!(level, "request failed: side={side} route={route} reason={reason}: {failure}{source}");
    }
}

/// Waits for the signal to stop, and starts the drain.
struct SignalWatch {
    /// Opened once the signal handlers are installed, so that a drain reaches every connection.
    listeners: Mutex<Vec<BoundListener>>,
    handlers: Vec<RequestHandler>,
    draining: Arc<AtomicBool>,
    registry: Arc<StreamRegistry>,
    limit: Duration,
    in_flight: Arc<AtomicUsize>,
    open_http2: Arc<AtomicUsize>,
    finished: Sender<()>,
}

#[async_trait]
impl ShutdownSignalWatch for SignalWatch {
    async fn recv(&self) -> ShutdownSignal {
        // A file that reaches its size limit (`ulimit -f`, `LimitFSIZE=`) fails a write to the log, and must not end
        // the process.
        let _file_size = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)] = signals else {
            log::error!("signal handlers not installed: side=internal: only SIGKILL ends this process");
            return std::future::pending().await;
        };
        for listen in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Err(error) = listen.open() {
                log::error!("listener closed: side=internal: {error}");
            }
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
        let streams = self.registry.active();
        log::info!("shutting down: no new connections; {streams} streams have {:?} to end", self.limit);
        self.draining.store(true, Ordering::Release);
        self.registry.drain(self.limit);
        self.handlers.iter().for_each(RequestHandler::close);
        let drain = Drain {
            registry: self.registry.clone(),
            in_flight: self.in_flight.clone(),
            open_http2: self.open_http2.clone(),
            until: Instant::now() + self.limit + DRAIN_MARGIN,
            finished: self.finished.clone(),
        };
        tokio::spawn(async move {
            // Only this task ends the process.
            let _essential = Essential::new("drain");
            tokio::select! {
                unfinished = drain.wait() => Drain::report(unfinished),
                _ = terminate.recv() => drain.report_cut("second signal"),
                _ = interrupt.recv() => drain.report_cut("second signal"),
                _ = quit.recv() => drain.report_cut("second signal"),
            }
            drain.cut().await;
            let _ = drain.finished.send(());
        });
        ShutdownSignal::GracefulTerminate
    }
}

struct Drain {
    registry: Arc<StreamRegistry>,
    in_flight: Arc<AtomicUsize>,
    /// HTTP/2 connections that are open. They have been sent GOAWAY, and close once their streams have ended.
    open_http2: Arc<AtomicUsize>,
    until: Instant,
    finished: Sender<()>,
}

/// What a drain has not ended by itself.
#[derive(Debug, PartialEq)]
enum Unfinished {
    Nothing,
    /// Streams and requests.
    Requests(usize),
    /// HTTP/2 connections that have not sent everything, or have not closed.
    Connections(usize),
}

impl Drain {
    async fn wait(&self) -> Unfinished {
        let limit = self.until - DRAIN_MARGIN;
        // Twice in a row: for an instant between the end of a request and the start of its stream, neither is counted.
        let (mut quiet, mut cut) = (0, 0);
        while quiet < 2 && Instant::now() < self.until {
            tokio::time::sleep(DRAIN_POLL).await;
            let left = self.left();
            quiet = if left == 0 { quiet + 1 } else { 0 };
            if Instant::now() < limit {
                // What is left at the limit is cut, by its own timers.
                cut = left;
            }
        }
        // A stream over HTTP/2 has ended when its end is queued on its connection.
        let until = self.until.min(Instant::now() + HTTP2_END_LIMIT);
        while self.open_http2.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        match (cut.max(self.left()), self.open_http2.load(Ordering::Relaxed)) {
            (0, 0) => Unfinished::Nothing,
            (0, connections) => Unfinished::Connections(connections),
            (cut, _) => Unfinished::Requests(cut),
        }
    }

    fn report(unfinished: Unfinished) {
        match unfinished {
            Unfinished::Nothing => log::info!("drained: nothing is left"),
            Unfinished::Requests(count) => Self::report_cut_streams("drain limit passed", count),
            Unfinished::Connections(count) => log::warn!(
                "drain limit passed: side=internal connections={count}: HTTP/2 connections are closed, perhaps before \
                 they have sent the ends of their streams"
            ),
        }
    }

    fn report_cut(&self, event: &str) {
        Self::report_cut_streams(event, self.left());
    }

    fn report_cut_streams(event: &str, count: usize) {
        log::warn!("{event}: side=internal count={count}: the remaining streams and requests are cut");
    }

    /// Cuts what is left; each stream ends with its reason and its line in the access log.
    async fn cut(&self) {
        self.registry.drain(Duration::ZERO);
        let until = Instant::now() + DRAIN_MARGIN;
        while self.registry.active() > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    fn left(&self) -> usize {
        self.registry.active() + self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: a drain ends every stream so that its client sees a complete response. Mechanism: over HTTP/2 a stream ends when
    /// its last bytes are queued on its connection, and the process exited without waiting for the connection to send them.
    /// Symptom: on a busy machine, clients saw broken streams at a restart.
    #[test]
    fn a_drain_waits_for_http_2_connections_to_send_what_is_queued() {
        let open_http2 = Arc::new(AtomicUsize::new(1));
        let drain = Drain {
            registry: Arc::default(),
            in_flight: Arc::default(),
            open_http2: open_http2.clone(),
            until: Instant::now() + Duration::from_secs(60),
            finished: channel().0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut waiting = std::pin::pin!(drain.wait());
            let early = tokio::time::timeout(5 * DRAIN_POLL, &mut waiting).await;
            assert!(early.is_err(), "the connection is open");
            open_http2.store(0, Ordering::Relaxed);
            assert_eq!(waiting.await, Unfinished::Nothing);
        });
    }

    /// Invariant: a drain that closes connections says so. Mechanism: only streams and requests were counted once the wait
    /// for HTTP/2 connections had reached its limit. Symptom: `drained: nothing is left`, and clients with broken streams.
    #[test]
    fn a_drain_reports_the_http_2_connections_that_it_closes() {
        for (requests, connections, wanted) in
            [(0, 0, Unfinished::Nothing), (0, 2, Unfinished::Connections(2)), (3, 2, Unfinished::Requests(3))]
        {
            let drain = Drain {
                registry: Arc::default(),
                in_flight: Arc::new(AtomicUsize::new(requests)),
                open_http2: Arc::new(AtomicUsize::new(connections)),
                until: Instant::now() + 5 * DRAIN_POLL,
                finished: channel().0,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            assert_eq!(runtime.block_on(drain.wait()), wanted);
        }
    }
}
