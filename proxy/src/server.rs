//! Puts the parts together and runs them until a signal ends them.

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
use crate::config::{Config, DriverConfig};
use crate::connections::Connections;
use crate::driver::descriptors;
use crate::driver::{BoundListener, Driver, Drivers, Ended, Observer, Registry, Route, StreamInfo, reactor_threads};
use crate::failure::Failure;
use crate::fallback::Fallback;
use crate::gateway::{Gateway, GatewayRoute};
use crate::listen::{self, Bound, ListenError, Prebound};
use crate::logging::ProcessLog;
use crate::metrics::Metrics;
use crate::stream::Policy;
use crate::sys;
use crate::takeover::{RequestHandler, Takeover};
use crate::threads::{self, Essential};
use crate::upstream::Upstream;

/// How long a drain without a limit of its own may last: a process that never exits is not shut down.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// How often a drain looks whether anything is left.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Past the drain's limit, what is still closing gets this long.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// How long the last lines of each log get to be written when the process ends.
pub const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// The proxy cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}; check the path at access_log and its permissions")]
    AccessLog(#[source] io::Error),
    /// Pingora's server thread ended without being told to.
    #[error("the server stopped by itself; the log says why")]
    Stopped,
    /// A thread cannot be started, or a signal not be waited for.
    #[error("the system is out of resources: {0}")]
    System(#[from] io::Error),
}

/// Checks what [`run`] would refuse and a parsed configuration does not show: certificates and their keys.
///
/// # Errors
/// When one cannot be used.
pub fn check(config: &Config) -> Result<(), ListenError> {
    config.listen.iter().try_for_each(listen::check_tls)
}

/// Binds everything, serves until SIGTERM, SIGINT or SIGQUIT, drains, and returns once nothing is left or the drain's
/// limit has passed. A second signal cuts the drain short.
///
/// # Errors
/// When something cannot be bound or opened; nothing has been served then.
pub fn run(config: &Config, log: &ProcessLog) -> Result<(), ServerError> {
    if !sys::tune_allocator() {
        log::warn!("side=internal: the allocator keeps its own settings; memory comes back later than measured");
    }
    let bound = config.listen.iter().map(listen::bind).collect::<Result<Vec<_>, _>>()?;
    let admin_bound = config.admin.as_ref().map(listen::bind_admin).transpose()?;
    raise_descriptor_limit();

    let metrics = Metrics::with_log(log.dropped());
    let access_log = AccessLog::open(&config.access_log, metrics.log_lost()).map_err(ServerError::AccessLog)?;
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
    let takeover = Arc::new(Takeover::new(drivers).trusting(config.trusted_proxies()).with_body_limit(client.body));
    let routes = routes(config, &observer);
    metrics.watch(routes.iter().map(|route| route.streams.clone()).collect());
    let gateway = Gateway::new(routes, takeover.clone(), metrics.clone(), client);
    let in_flight = gateway.in_flight();
    let draining = Arc::new(AtomicBool::new(false));

    let limit = config.drain.timeout.get().unwrap_or(LONGEST_DRAIN);
    let mut server = Server::new_with_opt_and_conf(None, server_conf(threads, limit));
    for bound in &bound {
        log::info!("listening on {} ({})", bound.address, bound.protocol());
    }
    let conf = server.configuration.clone();
    let (mut listeners, mut handlers) = (Vec::new(), Vec::new());
    // Whether HTTP/2 is looked for without TLS is a setting of the service, not of the listener.
    let (h2c, others): (Vec<_>, Vec<_>) = bound.into_iter().partition(|bound| bound.h2c);
    for (bound, h2c) in [(others, false), (h2c, true)] {
        // Plain connections are the reactors' own from their first byte; Pingora accepts the others, and without reactors
        // all.
        let by_reactors = |bound: &Bound| driver == Driver::Parked && !bound.is_tls();
        let (plain, others): (Vec<_>, Vec<_>) = bound.into_iter().partition(by_reactors);
        let application = || {
            let app = http_proxy(&conf, gateway.clone());
            let (options, unacknowledged) = (listen::h2_options(&client.head), gateway.longest_write());
            Connections::new(app, options, h2c, unacknowledged, client, metrics.clone())
        };
        if !plain.is_empty() {
            let (handler, handed_off) = RequestHandler::new(Arc::new(gateway.clone()), client);
            for bound in plain {
                listeners.push(takeover.listen(bound.into_listener(), &handler)?);
            }
            server.add_service(Fallback::new(application(), handed_off));
            handlers.push(handler);
        }
        if !others.is_empty() {
            server.add_service(proxy_service(application(), others));
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
    let watch =
        SignalWatch { listeners: Mutex::new(listeners), handlers, draining, registry, limit, in_flight, finished };
    threads::spawn("server", move || server.run(RunArgs { shutdown_signal: Box::new(watch) }))?;
    // Only the watch sends, and only once.
    let outcome = wait.recv().map_err(|_| ServerError::Stopped);
    observer.access_log.flush(FLUSH_LIMIT);
    outcome
}

fn routes(config: &Config, observer: &Arc<StreamObserver>) -> Vec<GatewayRoute> {
    let upstreams: BTreeMap<&str, Arc<Upstream>> = config
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let keep_alive = upstream.tcp_keepalive.get();
            (name.as_str(), Arc::new(Upstream::new(upstream.servers.clone()).with_keep_alive(keep_alive)))
        })
        .collect();
    let routes = config.effective_routes();
    routes
        .iter()
        .filter_map(|route| {
            let name = config.upstream_of(route)?;
            let keep_alive = config.upstreams.get(name)?.tcp_keepalive.get();
            let policy = Policy { keep_alive, ..route.policy() };
            Some(GatewayRoute {
                path_prefix: route.matches.path_prefix.clone(),
                stream: route.stream,
                upstream: upstreams.get(name)?.clone(),
                streams: Route::new(route.display_name(), policy, observer.clone()),
            })
        })
        .collect()
}

fn server_conf(threads: usize, drain_limit: Duration) -> ServerConf {
    ServerConf {
        threads,
        // A connection, its requests and its streams stay on one thread: nobody has to be woken on another.
        work_stealing: false,
        // An upgrade tries each of its upstream's addresses once, and says itself when none is left.
        max_retries: usize::MAX,
        // Pingora sleeps its grace period through; the process exits before, as soon as nothing is left.
        grace_period_seconds: Some(drain_limit.as_secs() + 2 * DRAIN_MARGIN.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// What serves the connections that are not the reactors' own.
type Application = Connections<HttpProxy<Gateway>>;

fn proxy_service(application: Application, mut bound: Vec<Bound>) -> Prebound<Service<Application>> {
    let mut service = Service::new("proxy".to_owned(), application);
    service.set_connection_filter(Arc::new(listen::WhileDescriptorsLast));
    for bound in &mut bound {
        service.add_listener(bound.endpoint());
    }
    Prebound::new(service, bound)
}

/// Takes every descriptor that the system gives: each stream needs two.
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

/// Everything that is told of streams.
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
        // A client that leaves is no error of anybody's.
        let level = if matches!(failure, Failure::ClientGone { .. }) { Level::Debug } else { Level::Warn };
        let (side, reason) = (failure.side().as_str(), failure.as_str());
        let source = std::error::Error::source(failure).map(|source| format!(": {source}")).unwrap_or_default();
        log::log!(level, "request failed: side={side} route={route} reason={reason}: {failure}{source}");
    }
}

/// Waits for the signal that ends the process, and starts the drain.
struct SignalWatch {
    /// Opened once signals are waited for: nobody is let in whom a drain would not find.
    listeners: Mutex<Vec<BoundListener>>,
    handlers: Vec<RequestHandler>,
    draining: Arc<AtomicBool>,
    registry: Arc<Registry>,
    limit: Duration,
    in_flight: Arc<AtomicUsize>,
    finished: Sender<()>,
}

#[async_trait]
impl ShutdownSignalWatch for SignalWatch {
    async fn recv(&self) -> ShutdownSignal {
        // A file at its limit of size (`ulimit -f`, `LimitFSIZE=`) is an error to the log, and not the end of the process.
        let _file_size = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)] = signals else {
            log::error!("no signals: side=internal: they cannot be waited for, only SIGKILL ends this process");
            return std::future::pending().await;
        };
        for listen in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Err(error) = listen.open() {
                log::error!("listener lost: side=internal: {error}");
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
            until: Instant::now() + self.limit + DRAIN_MARGIN,
            finished: self.finished.clone(),
        };
        tokio::spawn(async move {
            // Nobody else ends the process.
            let _essential = Essential::new("drain");
            tokio::select! {
                () = drain.wait() => {}
                _ = terminate.recv() => log::warn!("second signal: the drain is cut short"),
                _ = interrupt.recv() => log::warn!("second signal: the drain is cut short"),
                _ = quit.recv() => log::warn!("second signal: the drain is cut short"),
            }
            drain.cut().await;
            let _ = drain.finished.send(());
        });
        ShutdownSignal::GracefulTerminate
    }
}

struct Drain {
    registry: Arc<Registry>,
    in_flight: Arc<AtomicUsize>,
    until: Instant,
    finished: Sender<()>,
}

impl Drain {
    async fn wait(&self) {
        // Twice in a row: between a request's end and its stream's entry nothing is counted for an instant.
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < self.until {
            tokio::time::sleep(DRAIN_POLL).await;
            quiet = if self.left() == 0 { quiet + 1 } else { 0 };
        }
        match self.left() {
            0 => log::info!("drained: nothing is left"),
            left => log::warn!("the drain's limit has passed: {left} streams or requests are cut"),
        }
    }

    /// Ends what is left, each stream for its reason and with its line in the log.
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
