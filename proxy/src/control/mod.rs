//! Brings a configuration into force: at the start, and again at each reload.
//!
//! A reload reads the file, checks it, and prepares everything that can fail (files, certificates, sockets) before it
//! changes anything. Requests use the new values from then on. Running streams keep the rules that they began with, unless
//! their route says otherwise.

mod adopt;
mod build;
mod changes;
mod listeners;
pub mod notify;
pub mod pid_file;
pub mod remote;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::access_log::{AccessLog, Opened};
use crate::config::{Config, ConfigFile, Drain, Problem};
use crate::connections::{ConnectionRules, SharedRules};
use crate::driver::{Observer, StreamRegistry};
use crate::listen;
use crate::metrics::Metrics;
use crate::routing::{RouteTable, Router};
use crate::threads;

use build::Built;
pub(crate) use listeners::Acceptors;
pub use listeners::BindError;
use listeners::{Listeners, Prepared};
use notify::Notifier;

/// Reads the configuration file again, and checks it with the files that it names: the file, and its warnings.
pub type Reader = Box<dyn Fn() -> Result<(ConfigFile, Vec<String>), String> + Send + Sync>;

/// What a reload has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One line for each change, such as `routes: added /events`.
    pub changes: Vec<String>,
    /// Settings that are valid and probably mistakes.
    pub warnings: Vec<String>,
}

/// A reload has changed nothing.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file cannot be read or used, or asks for what a reload cannot change.
    #[error("{0}")]
    Invalid(String),
    /// A socket cannot be bound, or a file cannot be opened.
    #[error("{0}")]
    System(String),
    /// The process shuts down.
    #[error("the process is shutting down, and its configuration stays as it is")]
    ShuttingDown,
}

/// What is in force, and what it takes to replace it.
pub struct Control {
    reader: Option<Reader>,
    router: Arc<Router>,
    connection_rules: SharedRules,
    metrics: Arc<Metrics>,
    observer: Arc<dyn Observer>,
    access_log: Arc<AccessLog>,
    open_http2: Arc<AtomicUsize>,
    shuts_down: AtomicBool,
    notifier: Notifier,
    state: Mutex<State>,
    /// Read without waiting for a reload to end.
    drain: ArcSwap<Drain>,
    /// A listener has been opened or changed.
    changed: Condvar,
}

struct State {
    config: Config,
    acceptors: Option<Acceptors>,
    listeners: Listeners,
    /// The first listeners, until they are opened.
    prepared: Option<Prepared>,
}

/// What a process has once, whatever its configuration says later.
pub struct Parts {
    /// Reads the configuration again; `None` if there is no file.
    pub reader: Option<Reader>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Gets every stream.
    pub observer: Arc<dyn Observer>,
    /// The access log, which is reopened.
    pub access_log: Arc<AccessLog>,
    /// The number of open HTTP/2 connections.
    pub open_http2: Arc<AtomicUsize>,
    /// Every running stream.
    pub streams: Arc<StreamRegistry>,
}

impl Control {
    /// Builds what the configuration says about requests. There are no listeners yet.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts { reader, metrics, observer, access_log, open_http2, streams } = parts;
        let (table, _) = Built::of(config, &metrics, &observer).watched_by(&metrics);
        metrics.configured();
        let rules = connection_rules(&table, &metrics, &open_http2);
        let state = State { config: config.clone(), acceptors: None, listeners: Listeners::default(), prepared: None };
        Self {
            reader,
            router: Arc::new(Router::new(table).counting(streams)),
            connection_rules: Arc::new(ArcSwap::from_pointee(rules)),
            metrics,
            observer,
            access_log,
            open_http2,
            shuts_down: AtomicBool::new(false),
            notifier: Notifier::of_environment(),
            drain: ArcSwap::from_pointee(config.drain.clone()),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// What decides on requests.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// The limits on connections in force.
    pub fn connection_rules(&self) -> &SharedRules {
        &self.connection_rules
    }

    /// The service manager, if there is one.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// How a drain goes, by the configuration in force.
    pub fn drain(&self) -> Drain {
        self.drain.load().as_ref().clone()
    }

    /// Binds the listeners. They accept nothing before [`Control::open`].
    ///
    /// # Errors
    /// When one cannot be bound.
    pub(crate) fn bind(&self, acceptors: Acceptors) -> Result<(), BindError> {
        let mut state = self.state();
        let prepared = state.listeners.prepare(&state.config.listen, &acceptors)?;
        (state.acceptors, state.prepared) = (Some(acceptors), Some(prepared));
        Ok(())
    }

    /// Accepts connections, queued ones included.
    pub fn open(&self) {
        let mut state = self.state();
        let State { acceptors, listeners, prepared, .. } = &mut *state;
        if let (Some(acceptors), Some(prepared)) = (acceptors, prepared.take()) {
            listeners.apply(prepared, acceptors);
        }
        drop(state);
        self.changed.notify_all();
        self.notifier.ready();
    }

    /// Starts the thread that reads certificates again when their files change.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch_certificates(self: &Arc<Self>) -> io::Result<()> {
        let control = self.clone();
        threads::spawn("certificates", move || {
            let mut state = control.state();
            loop {
                let next = state.listeners.look_at_certificates(Instant::now());
                state = match next.map(|next| next.saturating_duration_since(Instant::now())) {
                    None => control.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(wait) => control.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                };
            }
        })
    }

    /// Reads the configuration again and brings it into force. Blocks, and waits for another reload to end.
    ///
    /// # Errors
    /// When anything is wrong: nothing has changed then. The error has been logged and counted.
    pub fn reload(&self) -> Result<Outcome, ReloadError> {
        let mut state = self.state();
        if self.shuts_down.load(Ordering::Acquire) {
            return Err(ReloadError::ShuttingDown);
        }
        self.notifier.reloading();
        let outcome = self.reload_locked(&mut state);
        drop(state);
        self.changed.notify_all();
        if !self.shuts_down.load(Ordering::Acquire) {
            let failed = outcome.as_ref().err().map(|error| format!("not reloaded: {error}"));
            self.notifier.note(&failed.unwrap_or_default());
            self.notifier.ready();
        }
        self.metrics.reloaded(outcome.is_ok());
        match &outcome {
            Ok(outcome) => {
                let changes = if outcome.changes.is_empty() { "nothing" } else { &*outcome.changes.join(", ") };
                log::info!("configuration reloaded: changed: {changes}");
                for (number, warning) in (1..).zip(&outcome.warnings) {
                    log::warn!("configuration: warning={number}: {warning}");
                }
            }
            Err(error) => log::error!("configuration not reloaded: side=internal: nothing has changed: {error}"),
        }
        outcome
    }

    fn reload_locked(&self, state: &mut State) -> Result<Outcome, ReloadError> {
        let reader = self.reader.as_ref().ok_or_else(|| {
            ReloadError::Invalid(
                "there is no file to read again: start sse-proxy with --config to be able to reload".to_owned(),
            )
        })?;
        let (file, warnings) = reader().map_err(ReloadError::Invalid)?;
        let invalid = |problem: &Problem| ReloadError::Invalid(format!("{}: {problem}", file.location(problem)));
        let config = &file.config;
        changes::check(&state.config, config).map_err(|problem| invalid(&problem))?;
        let State { acceptors: Some(acceptors), listeners, prepared: None, config: before } = state else {
            return Err(ReloadError::System("the process is starting; try again".to_owned()));
        };
        let prepared = listeners.prepare(&config.listen, acceptors).map_err(|error| match error {
            BindError::Unchangeable(problem) => invalid(&problem),
            error => ReloadError::System(error.to_string()),
        })?;
        let log = Opened::open(&config.access_log).map_err(|error| {
            ReloadError::System(format!(
                "cannot open the access log: {error}; check the path at access_log, its permissions, and the room on its disk"
            ))
        })?;
        if self.shuts_down.load(Ordering::Acquire) {
            return Err(ReloadError::ShuttingDown);
        }
        self.access_log.replace(log).map_err(|error| ReloadError::System(format!("cannot start a thread: {error}")))?;

        // From here on nothing can fail.
        let mut changes = changes::list(before, config);
        let (table, adopting) = Built::of(config, &self.metrics, &self.observer).watched_by(&self.metrics);
        self.connection_rules.store(Arc::new(connection_rules(&table, &self.metrics, &self.open_http2)));
        self.router.replace(table);
        changes.extend(listeners.apply(prepared, acceptors));
        match adopt::adopt(&adopting, &acceptors.takeover) {
            0 => {}
            1 => changes.push("1 running stream follows the new rules".to_owned()),
            count => changes.push(format!("{count} running streams follow the new rules")),
        }
        self.drain.store(Arc::new(config.drain.clone()));
        *before = config.clone();
        Ok(Outcome { changes, warnings })
    }

    /// Refuses reloads from now on, and reports that the process stops.
    pub fn refuse_reloads(&self) {
        self.shuts_down.store(true, Ordering::Release);
        self.notifier.stopping();
    }

    /// Gives up its descriptors of the listeners, so that those who accept from them close them.
    pub fn release_listeners(self: &Arc<Self>) {
        match self.state.try_lock() {
            Ok(mut state) => state.listeners.release(),
            Err(TryLockError::Poisoned(state)) => state.into_inner().listeners.release(),
            // A reload is under way, and reads a file or resolves a name. The drain does not wait for it.
            Err(TryLockError::WouldBlock) => {
                let control = self.clone();
                let released = threads::spawn("reload-end", move || control.state().listeners.release());
                if let Err(error) = released {
                    log::error!("listeners not closed: side=internal: {error}");
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connection_rules(table: &RouteTable, metrics: &Arc<Metrics>, open_http2: &Arc<AtomicUsize>) -> ConnectionRules {
    let rules = table.rules();
    let options = listen::h2_options(&rules.policy.head);
    ConnectionRules::new(rules, options, table.longest_write(), metrics.clone(), open_http2.clone())
}
