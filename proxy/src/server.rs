//! Builds the server from its parts and runs it until a signal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::StatusCode;
use log::Level;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora::services::listening::Service;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;

use crate::access_log::AccessLog;
use crate::admin::{self, Admin, OnUnixSocket, Reload};
use crate::certificate;
use crate::config::{self, Config, ConfigFile, DriverConfig, Problem};
use crate::connections::Connections;
use crate::control::pid_file::{PidFile, PidFileError};
use crate::control::remote::RELOADED;
use crate::control::{Acceptors, BindError, Control, Parts, Reader, ReloadError};
use crate::driver::descriptors;
use crate::driver::{Driver, Drivers, Ended, Observer, StreamInfo, StreamRegistry, reactor_threads};
use crate::failure::Failure;
use crate::fallback::Fallback;
use crate::gateway::Gateway;
use crate::listen::{self, ListenError, Prebound};
use crate::logging::ProcessLog;
use crate::metrics::Metrics;
use crate::routing::{Answered, RequestObserver};
use crate::stream::RetryRange;
use crate::sys;
use crate::takeover::{RequestHandler, Takeover};
use crate::threads::{self, Essential};

/// The limit of a drain for which none is configured, from the close of the listeners, so that the process always exits.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// Longer than any drain.
const GRACE_PERIOD: Duration = Duration::from_secs(2 * 366 * 86_400);

/// How often a drain checks whether anything is left.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How often the streams are counted while a drain waits for its load balancer.
const READY_POLL: Duration = Duration::from_millis(250);

/// How often a drain reports its progress.
const DRAIN_PROGRESS: Duration = Duration::from_secs(10);

/// How long streams that are being cut may take after the drain's limit.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// How long HTTP/2 connections may take to send the ends of their streams, once nothing else is left.
const HTTP2_END_LIMIT: Duration = Duration::from_secs(5);

/// How long flushing each log may take when the process exits.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// The proxy cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address of `listen` cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The address of `admin` cannot be listened on.
    #[error(transparent)]
    Admin(#[from] ListenError),
    /// The pid file cannot be written.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
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
    AccessLog::check(&config.access_log.to)?;
    Admin::check(config.admin.as_ref())?;
    config.pid_file.as_deref().map(PidFile::check).transpose()?;
    Ok(warnings)
}

/// Reads a configuration file and checks it with the files that it names; returns it with its warnings.
///
/// # Errors
/// When it cannot be served: the message, with file, line and key.
pub fn read(file: &Path) -> Result<(ConfigFile, Vec<String>), String> {
    let file = ConfigFile::load(file).map_err(|error| error.to_string())?;
    let located = |problem: &Problem| file.location(problem);
    let warnings = check(&file.config).map_err(|problem| format!("{}: {problem}", located(&problem)))?;
    let warnings = warnings.iter().map(|problem| format!("{}: warning: {problem}", located(problem))).collect();
    Ok((file, warnings))
}

/// Binds everything, serves until SIGTERM, SIGINT or SIGQUIT, drains, and returns once nothing is left or the drain's
/// limit has passed. A second signal cuts the drain short. SIGHUP reads `file` again, if there is one.
///
/// # Errors
/// When something cannot be bound or opened; nothing has been served in that case.
pub fn run(config: &Config, file: Option<&Path>, log: &ProcessLog) -> Result<(), ServerError> {
    if !sys::tune_allocator() {
        log::warn!(
            "allocator not tuned: side=internal: it keeps its own settings and returns memory later than measured"
        );
    }
    let metrics = Metrics::with_log(log.dropped());
    let access_log = AccessLog::open(&config.access_log, metrics.log_lost()).map_err(ServerError::AccessLog)?;
    let access_log = Arc::new(access_log);
    let (admin_path, admin_config) = (config.admin.as_ref().and_then(config::Admin::unix_path), config.admin.as_ref());
    let admin_bound = admin_config.filter(|_| admin_path.is_none()).map(listen::bind_admin).transpose()?;
    let admin_socket = admin_path.map(|path| {
        let failed = |source| ListenError::Bind { address: format!("unix:{}", path.display()), source };
        admin::bind_unix(path).map(|socket| (socket, path)).map_err(failed)
    });
    let admin_socket = admin_socket.transpose()?;
    raise_descriptor_limit();

    let observer = Arc::new(StreamObserver { metrics: metrics.clone(), access_log: access_log.clone() });
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
    let drivers = Drivers::new(driver, reactor_threads(threads));
    let takeover = Arc::new(Takeover::new(drivers));
    let open_http2 = Arc::<AtomicUsize>::default();
    let reader = file.map(Path::to_owned).map(|file| Box::new(move || read(&file)) as Reader);
    let control = Arc::new(Control::new(
        config,
        Parts {
            reader,
            metrics: metrics.clone(),
            observer: observer.clone(),
            access_log: access_log.clone(),
            open_http2: open_http2.clone(),
            streams: takeover.registry().clone(),
        },
    ));
    let router = control.router().clone();
    let gateway = Gateway::new(router.clone(), takeover.clone(), metrics.clone())
        .observed_by(observer.clone() as Arc<dyn RequestObserver>);
    let draining = Arc::new(AtomicBool::new(false));

    let mut server = Server::new_with_opt_and_conf(None, server_conf(threads));
    let (handler, handed_off) = RequestHandler::new(Arc::new(gateway.clone()));
    let (tasks, task_listeners) = unbounded_channel();
    control.bind(Acceptors { takeover: takeover.clone(), driver, handler: handler.clone(), tasks })?;
    let pid_file = config.pid_file.as_deref().map(PidFile::create).transpose()?;
    let app = http_proxy(&server.configuration, gateway);
    let application = Connections::new(app, control.connection_rules().clone(), metrics.clone());
    server.add_service(Fallback::new(application, handed_off, task_listeners));
    let admin_pages = |admin: &config::Admin| {
        let (log, pages) = (access_log.clone(), Admin::new(metrics.clone(), draining.clone()));
        pages.for_operators(admin, takeover.clone(), Arc::new(move || log.mask()), reload_page(control.clone()))
    };
    if let Some(((socket, path), admin)) = admin_socket.zip(admin_config) {
        log::info!("admin on unix:{}", path.display());
        server.add_service(OnUnixSocket::new(admin_pages(admin), socket, path));
    }
    if let Some((bound, admin)) = admin_bound.zip(admin_config) {
        log::info!("admin on {}", bound.address);
        let mut service = Service::new("admin".to_owned(), admin_pages(admin));
        service.add_tcp(&bound.address.to_string());
        service.threads = Some(1);
        server.add_service(Prebound::until_exit(service, vec![bound]));
    }

    control.watch_certificates()?;
    let (streams, reactors) = (takeover.registry().clone(), takeover.clone());
    control.notifier().start(move || streams.active(), move |limit| reactors.responds(limit))?;
    let (finished, wait) = channel();
    let registry = takeover.registry().clone();
    let in_flight = router.in_flight().clone();
    let watch = SignalWatch { control, handler, draining, registry, metrics, in_flight, open_http2, finished };
    threads::spawn("server", move || server.run(RunArgs { shutdown_signal: Box::new(watch) }))?;
    // The signal watch sends once, at the end of the drain.
    let outcome = wait.recv().map_err(|_| ServerError::Stopped);
    observer.access_log.flush(FLUSH_LIMIT);
    drop(pid_file);
    outcome
}

/// What `POST /reload` answers.
fn reload_page(control: Arc<Control>) -> Reload {
    Arc::new(move || match control.reload() {
        Ok(outcome) => {
            let nothing = ["nothing has changed".to_owned()];
            let changes = if outcome.changes.is_empty() { &nothing[..] } else { &outcome.changes };
            let lines = [RELOADED.to_owned()].into_iter().chain(changes.iter().cloned()).chain(outcome.warnings);
            (StatusCode::OK, lines.map(|line| line + "\n").collect())
        }
        Err(error) => {
            let status = match error {
                ReloadError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
                ReloadError::System(_) => StatusCode::INTERNAL_SERVER_ERROR,
                ReloadError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("not reloaded, and nothing has changed: {error}\n"))
        }
    })
}

fn server_conf(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        // A connection, its requests and its streams stay on one thread, without wakeups across threads.
        work_stealing: false,
        // An upgrade tries each address of its upstream once, and stops when none is left.
        max_retries: usize::MAX,
        // Pingora sleeps through its grace period; the process exits earlier, as soon as nothing is left or the limit of the
        // drain has passed, which a reload may change.
        grace_period_seconds: Some(GRACE_PERIOD.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
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
    access_log: Arc<AccessLog>,
}

impl Observer for StreamObserver {
    fn opened(&self, route: &str, info: &StreamInfo) {
        self.metrics.opened(route, info);
    }

    fn first_event(&self, route: &str, info: &StreamInfo, after: Duration) {
        self.metrics.first_event(route, info, after);
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

impl RequestObserver for StreamObserver {
    fn answered(&self, page: &Answered<'_>) {
        self.access_log.page(page);
    }
}

/// Waits for the signal to stop, and starts the drain.
struct SignalWatch {
    control: Arc<Control>,
    handler: RequestHandler,
    draining: Arc<AtomicBool>,
    registry: Arc<StreamRegistry>,
    metrics: Arc<Metrics>,
    in_flight: Arc<AtomicUsize>,
    open_http2: Arc<AtomicUsize>,
    finished: Sender<()>,
}

/// Reloads at each SIGHUP.
async fn reload_at(mut hangup: Signals, control: Arc<Control>) {
    // A panic would leave a process that no longer reloads.
    let _essential = Essential::new("reload");
    while hangup.recv().await.is_some() {
        let control = control.clone();
        // The outcome has been logged and counted.
        let reload = tokio::task::spawn_blocking(move || drop(control.reload()));
        if reload.await.is_err() {
            log::error!("configuration not reloaded: side=internal: the reload panicked");
        }
    }
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
        let hangup = signal(SignalKind::hangup());
        // Now that the signal handlers are installed, so that a drain reaches every connection; and before a reload, which may
        // have to wait for a file.
        self.control.open();
        match hangup {
            Ok(hangup) => drop(tokio::spawn(reload_at(hangup, self.control.clone()))),
            Err(error) => log::error!("signal handler not installed: side=internal: SIGHUP ends this process: {error}"),
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
        let times = DrainTimes::new(&self.control.drain());
        let until = Instant::now() + times.limit;
        self.draining.store(true, Ordering::Release);
        self.control.refuse_reloads();
        self.metrics.draining(self.registry.active());
        let mut cut = false;
        if !times.ready_delay.is_zero() {
            log::info!("shutting down: /readyz answers 503, listeners accept for {:?}", times.ready_delay);
            tokio::select! {
                () = self.wait_ready_delay(times.ready_delay) => {}
                _ = terminate.recv() => cut = true,
                _ = interrupt.recv() => cut = true,
                _ = quit.recv() => cut = true,
            }
        }
        let (streams, left) = (self.registry.active(), until.saturating_duration_since(Instant::now()));
        log::info!("shutting down: no new connections; {streams} streams have {left:?} to end");
        self.control.release_listeners();
        self.registry.drain_over(times.spread, left, times.retry);
        self.handler.close();
        let drain = Drain {
            registry: self.registry.clone(),
            in_flight: self.in_flight.clone(),
            open_http2: self.open_http2.clone(),
            until: until + DRAIN_MARGIN,
            metrics: self.metrics.clone(),
            finished: self.finished.clone(),
        };
        tokio::spawn(async move {
            // Only this task ends the process.
            let _essential = Essential::new("drain");
            tokio::select! {
                biased;
                () = std::future::ready(()), if cut => drain.report_cut("second signal"),
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

impl SignalWatch {
    /// Waits while listeners still accept; streams come and go meanwhile.
    async fn wait_ready_delay(&self, ready_delay: Duration) {
        let until = Instant::now() + ready_delay;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.metrics.draining(self.registry.active());
            tokio::time::sleep(left.min(READY_POLL)).await;
        }
    }
}

/// The times of a drain, from the signal.
#[derive(Clone, Copy)]
struct DrainTimes {
    ready_delay: Duration,
    spread: Duration,
    /// Includes the two others.
    limit: Duration,
    retry: Option<RetryRange>,
}

impl DrainTimes {
    fn new(config: &config::Drain) -> Self {
        let (ready_delay, spread) =
            (config.ready_delay.get().unwrap_or_default(), config.spread.get().unwrap_or_default());
        let limit = config.timeout.get().unwrap_or(ready_delay + spread + LONGEST_DRAIN);
        Self { ready_delay, spread, limit, retry: config.retry.get() }
    }
}

struct Drain {
    registry: Arc<StreamRegistry>,
    in_flight: Arc<AtomicUsize>,
    /// HTTP/2 connections that are open. They have been sent GOAWAY, and close once their streams have ended.
    open_http2: Arc<AtomicUsize>,
    until: Instant,
    metrics: Arc<Metrics>,
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
        let mut report_at = Instant::now() + DRAIN_PROGRESS;
        while quiet < 2 && Instant::now() < self.until {
            tokio::time::sleep(DRAIN_POLL).await;
            let left = self.left();
            self.metrics.draining(self.registry.active());
            if Instant::now() >= report_at {
                report_at += DRAIN_PROGRESS;
                self.report_progress();
            }
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

    fn report_progress(&self) {
        let (streams, requests) = (self.registry.active(), self.in_flight.load(Ordering::Relaxed));
        let left = (self.until - DRAIN_MARGIN).saturating_duration_since(Instant::now()).as_secs();
        log::info!("draining: streams={streams} requests={requests} seconds_left={left}");
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
            metrics: Metrics::new(),
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
                metrics: Metrics::new(),
                finished: channel().0,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            assert_eq!(runtime.block_on(drain.wait()), wanted);
        }
    }
}
