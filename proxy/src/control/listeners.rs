//! The listeners of the process: bound before anything changes, opened, changed and closed by a reload.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;

use crate::certificate::{self, Pair};
use crate::config::{Listen, Problem, Tls};
use crate::connections::Preamble;
use crate::driver::{BoundListener, Driver, OpenListener};
use crate::fallback::{TaskListener, TaskListenerHandle};
use crate::listen::{self, ListenError, TlsEndpoint};
use crate::takeover::{RequestHandler, Takeover};

/// What accepts connections.
pub(crate) struct Acceptors {
    /// Whose reactors accept from plain listeners, if that is the driver.
    pub(crate) takeover: Arc<Takeover>,
    /// The driver of the process.
    pub(crate) driver: Driver,
    /// Of listeners without HTTP/2.
    pub(crate) handler: RequestHandler,
    /// The service whose tasks accept from all others.
    pub(crate) tasks: UnboundedSender<TaskListener>,
}

/// Every listener of the process, in the order of the configuration.
#[derive(Default)]
pub(super) struct Listeners(Vec<Running>);

/// A listener that accepts connections.
struct Running {
    listen: Listen,
    address: SocketAddr,
    /// A second descriptor of the socket, for what a reload changes.
    socket: TcpListener,
    tls: Option<TlsEndpoint>,
    watch: Watch,
    /// `None` for an instant, while it is being replaced.
    accepting: Option<Accepting>,
}

enum Accepting {
    Reactor(OpenListener),
    Task(TaskListenerHandle),
}

/// A listener from which nothing is accepted yet.
enum Ready {
    Reactor(BoundListener),
    Task(TaskListener, TaskListenerHandle),
}

/// The next look at the files of a certificate.
#[derive(Default)]
struct Watch {
    due: Option<Instant>,
    /// Of the files that could not be used, so that each is logged once.
    refused: Option<u64>,
}

/// What a reload does to the listeners once everything has been checked, in the order of the new configuration.
pub(super) struct Prepared(Vec<Next>);

enum Next {
    Open(Running, Ready),
    Keep {
        at: usize,
        listen: Listen,
        /// A certificate that takes the place of the served one.
        tls: Option<TlsEndpoint>,
        /// Accepts in place of what accepts now, with other protocols.
        replacement: Option<Ready>,
    },
}

impl Listeners {
    /// Binds what is new, and loads every certificate. Changes nothing.
    ///
    /// # Errors
    /// When something cannot be bound or loaded, or cannot change.
    pub(super) fn prepare(&self, wanted: &[Listen], acceptors: &Acceptors) -> Result<Prepared, BindError> {
        let mut known: Vec<bool> = vec![false; self.0.len()];
        // By the configured address first: several may ask for port 0.
        let mut at: Vec<Option<usize>> = wanted
            .iter()
            .map(|listen| {
                let mut running = self.0.iter().enumerate();
                let (at, _) = running.find(|(at, running)| !known[*at] && running.listen.address == listen.address)?;
                known[at] = true;
                Some(at)
            })
            .collect();
        for (listen, at) in wanted.iter().zip(&mut at).filter(|(_, at)| at.is_none()) {
            let Ok(Some(address)) = listen::resolve(&listen.address) else { continue };
            let mut running = self.0.iter().enumerate();
            if let Some((same, _)) = running.find(|(at, running)| !known[*at] && running.address == address) {
                (known[same], *at) = (true, Some(same));
            }
        }
        let mut next = Vec::with_capacity(wanted.len());
        for (position, (listen, at)) in wanted.iter().zip(at).enumerate() {
            next.push(match at {
                Some(at) => self.prepare_kept(position, at, listen, acceptors)?,
                None => self.prepare_new(listen, acceptors)?,
            });
        }
        Ok(Prepared(next))
    }

    fn prepare_new(&self, listen: &Listen, acceptors: &Acceptors) -> Result<Next, BindError> {
        let bound = listen::bind(listen).map_err(|error| {
            let address = listen::resolve(&listen.address).ok().flatten().filter(|_| error.is_in_use());
            let port = address.map(|address| address.port());
            let own = self.0.iter().find(|running| Some(running.address.port()) == port);
            BindError::Listen { error: Box::new(error), own: own.map(|running| running.address) }
        })?;
        let address = bound.address;
        let (socket, tls) = bound.into_parts();
        let second = socket.try_clone()?;
        let ready = Ready::new(socket, listen, tls.as_ref(), acceptors)?;
        let watch = Watch::of(listen);
        Ok(Next::Open(Running { listen: listen.clone(), address, socket: second, tls, watch, accepting: None }, ready))
    }

    fn prepare_kept(
        &self,
        position: usize,
        at: usize,
        listen: &Listen,
        acceptors: &Acceptors,
    ) -> Result<Next, BindError> {
        let running = &self.0[at];
        if running.listen.reuse_port != listen.reuse_port {
            let what = format!("is {}, which a socket that is bound cannot change", listen.reuse_port);
            let key = ["listen", &position.to_string(), "reuse_port"];
            let remedy = "restart the process, or set the former value again";
            return Err(BindError::Unchangeable(Problem::new(&key, what, remedy)));
        }
        let tls = listen::tls_endpoint(listen)?;
        let begins_with = |listen: &Listen| (listen.tls.is_some(), listen.h2c, listen.proxy_protocol);
        let same = begins_with(&running.listen) == begins_with(listen);
        let replacement = match same {
            true => None,
            false => Some(Ready::new(running.socket.try_clone()?, listen, tls.as_ref(), acceptors)?),
        };
        Ok(Next::Keep { at, listen: listen.clone(), tls, replacement })
    }

    /// Does what was prepared; returns what has changed.
    pub(super) fn apply(&mut self, prepared: Prepared, acceptors: &Acceptors) -> Vec<String> {
        let mut changes = Vec::new();
        let mut former: Vec<Option<Running>> = std::mem::take(&mut self.0).into_iter().map(Some).collect();
        for next in prepared.0 {
            match next {
                Next::Open(mut running, ready) => {
                    changes.push(format!("listen: added {} ({})", running.address, listen::protocol(&running.listen)));
                    running.open(ready, acceptors);
                    self.0.push(running);
                }
                Next::Keep { at, listen, tls, replacement } => {
                    let Some(mut running) = former.get_mut(at).and_then(Option::take) else { continue };
                    running.change(listen, tls, replacement, acceptors, &mut changes);
                    self.0.push(running);
                }
            }
        }
        for running in former.into_iter().flatten() {
            changes.push(format!("listen: removed {}", running.address));
            running.close();
        }
        changes
    }

    /// Drops every listener, whoever accepts from it: a drain closes those.
    pub(super) fn release(&mut self) {
        self.0.clear();
    }

    /// Reads the watched files of certificates that are due; returns when the next are.
    pub(super) fn look_at_certificates(&mut self, now: Instant) -> Option<Instant> {
        for running in &mut self.0 {
            if running.watch.due.is_some_and(|due| due <= now) {
                running.look_at_certificate(now);
            }
        }
        self.0.iter().filter_map(|running| running.watch.due).min()
    }
}

impl Running {
    fn open(&mut self, ready: Ready, acceptors: &Acceptors) {
        match ready.open(acceptors) {
            Ok(accepting) => {
                log::info!("listening on {} ({})", self.address, listen::protocol(&self.listen));
                self.accepting = Some(accepting);
            }
            Err(error) => log::error!("listener closed: side=internal: {}: {error}", self.address),
        }
    }

    fn change(
        &mut self,
        listen: Listen,
        tls: Option<TlsEndpoint>,
        replacement: Option<Ready>,
        acceptors: &Acceptors,
        changes: &mut Vec<String>,
    ) {
        if self.listen.tcp_keepalive != listen.tcp_keepalive {
            if let Err(error) = listen::set_keep_alive(&self.socket, &listen) {
                log::error!("keep-alive not set: side=internal: {}: {error}", self.address);
            }
            changes.push(format!("listen: changed tcp_keepalive of {}", self.address));
        }
        match (&mut self.tls, tls, replacement) {
            (_, tls, Some(ready)) => {
                let former = self.accepting.take();
                // Both accept for an instant, so that no connection is refused.
                self.listen = listen.clone();
                self.open(ready, acceptors);
                close(former, self.address);
                changes.push(format!("listen: changed {} to {}", self.address, listen::protocol(&listen)));
                self.tls = tls;
            }
            (Some(served), Some(tls), None) if served.fingerprint != tls.fingerprint => {
                // The acceptor stays, so that sessions can be resumed.
                served.certificate.replace_with(&tls.certificate);
                served.fingerprint = tls.fingerprint;
                changes.push(format!("listen: certificate of {} replaced", self.address));
            }
            _ => {}
        }
        self.watch = Watch::of(&listen);
        self.listen = listen;
    }

    fn close(self) {
        let Self { accepting, address, socket, .. } = self;
        // First, so that those who accept close the last descriptor right after they have emptied the queue.
        drop(socket);
        close(accepting, address);
    }

    fn look_at_certificate(&mut self, now: Instant) {
        let Some(tls) = &self.listen.tls else { return };
        self.watch.due = tls.reload.get().map(|interval| now + interval);
        let Some(served) = &mut self.tls else { return };
        match read_again(tls, served.fingerprint) {
            Ok(None) => self.watch.refused = None,
            Ok(Some(certificate)) => {
                served.fingerprint = certificate.fingerprint;
                served.certificate.replace(certificate.key);
                self.watch.refused = None;
                let warning = certificate.warning.map(|warning| format!(": warning: {warning}")).unwrap_or_default();
                log::info!("certificate replaced: listener={}{warning}", self.address);
            }
            Err((fingerprint, problem)) => {
                if self.watch.refused.replace(fingerprint) != Some(fingerprint) {
                    log::warn!(
                        "certificate not replaced: side=internal listener={}: the former one is served until both files \
                         can be used: {}",
                        self.address,
                        problem.under(&["tls"])
                    );
                }
            }
        }
    }
}

/// The certificate, if the files have changed. An error has the fingerprint of what cannot be used: 0 of files that cannot be
/// read.
fn read_again(tls: &Tls, served: u64) -> Result<Option<certificate::Certificate>, (u64, Problem)> {
    let pair = Pair::read(tls).map_err(|problem| (0, problem))?;
    if pair.fingerprint() == served {
        return Ok(None);
    }
    // One of the two files may be the new one already, and the other not yet: the next look finds both.
    certificate::parse(tls, &pair).map(Some).map_err(|problem| (pair.fingerprint(), problem))
}

fn close(accepting: Option<Accepting>, address: SocketAddr) {
    let closed = match accepting {
        Some(Accepting::Reactor(listener)) => listener.close(),
        Some(Accepting::Task(listener)) => listener.close(),
        None => Ok(()),
    };
    if let Err(error) = closed {
        log::error!("listener not closed: side=internal: {address}: {error}");
    }
}

impl Ready {
    fn new(socket: TcpListener, listen: &Listen, tls: Option<&TlsEndpoint>, acceptors: &Acceptors) -> io::Result<Self> {
        if acceptors.driver == Driver::Parked && tls.is_none() {
            let handler = acceptors.handler.of_listener(listen.h2c, listen.proxy_protocol);
            return acceptors.takeover.listen(socket, &handler).map(Self::Reactor);
        }
        let acceptor = tls.map(|tls| tls.acceptor.clone());
        let preamble = Preamble { proxy_protocol: listen.proxy_protocol, acceptor, h2c: listen.h2c };
        let (listener, handle) = TaskListener::new(socket, preamble);
        Ok(Self::Task(listener, handle))
    }

    fn open(self, acceptors: &Acceptors) -> io::Result<Accepting> {
        match self {
            Self::Reactor(listener) => listener.open().map(Accepting::Reactor),
            Self::Task(listener, handle) => {
                let ended = |_| io::Error::other("the service that accepts has ended");
                acceptors.tasks.send(listener).map_err(ended)?;
                Ok(Accepting::Task(handle))
            }
        }
    }
}

impl Watch {
    fn of(listen: &Listen) -> Self {
        let interval: Option<Duration> = listen.tls.as_ref().and_then(|tls| tls.reload.get());
        Self { due: interval.map(|interval| Instant::now() + interval), refused: None }
    }
}

/// The listeners cannot become what is wanted.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address or a certificate cannot be used.
    #[error("{error}{}", of_this_process(*.own))]
    Listen {
        /// Why.
        #[source]
        error: Box<ListenError>,
        /// A listener of this process that has the port.
        own: Option<SocketAddr>,
    },
    /// A setting cannot change while the process runs.
    #[error("{0}")]
    Unchangeable(Problem),
    /// A descriptor or a thread is missing.
    #[error("cannot listen: {0}")]
    System(#[from] io::Error),
}

impl From<ListenError> for BindError {
    fn from(error: ListenError) -> Self {
        Self::Listen { error: Box::new(error), own: None }
    }
}

fn of_this_process(own: Option<SocketAddr>) -> String {
    let remedy = |own| {
        format!(
            "; this process listens on {own}: to replace that listener, remove it with one reload and add the other with the \
             next"
        )
    };
    own.map(remedy).unwrap_or_default()
}
