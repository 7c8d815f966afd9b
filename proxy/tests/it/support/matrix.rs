//! Runs a behaviour in every combination of driver, protocol, number of threads, and whole or split requests.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::exchange::{Exchange, Protocol, Request, Way};
use super::{Backend, Certificate, Connection, Proxy};

/// Combinations that run at once. Most of what they do is wait.
const AT_ONCE: usize = 5;

/// Who carries a stream whose sockets are both plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Reactor,
    Task,
}

/// One way that a request can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combination {
    pub driver: Driver,
    pub protocol: Protocol,
    pub threads: usize,
    pub in_pieces: bool,
}

/// What is run: each driver with each protocol, each of those with one thread and with several, whole and in pieces. With TLS
/// and HTTP/2 both drivers are a task in the end, so there one of them takes half of the rest.
const COMBINATIONS: [Combination; 15] = {
    use Driver::{Reactor, Task};
    use Protocol::{Http2, Http2Tls, Http10, Http11, Http11Tls};
    const fn way(driver: Driver, protocol: Protocol, threads: usize, in_pieces: bool) -> Combination {
        Combination { driver, protocol, threads, in_pieces }
    }
    [
        way(Reactor, Http11, 1, false),
        way(Reactor, Http11, 4, false),
        way(Reactor, Http11, 4, true),
        way(Reactor, Http10, 1, false),
        way(Task, Http11, 4, false),
        way(Task, Http11, 1, true),
        way(Task, Http10, 4, false),
        way(Reactor, Http11Tls, 1, false),
        way(Reactor, Http11Tls, 4, true),
        way(Task, Http11Tls, 4, false),
        way(Reactor, Http2Tls, 4, false),
        way(Reactor, Http2Tls, 1, true),
        way(Task, Http2Tls, 1, false),
        way(Reactor, Http2, 1, false),
        way(Reactor, Http2, 4, true),
    ]
};

impl fmt::Display for Combination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { driver, protocol, threads, in_pieces } = self;
        let pieces = if *in_pieces { "in pieces" } else { "whole" };
        write!(formatter, "{driver:?}, {protocol:?}, threads: {threads}, {pieces}")
    }
}

/// What a behaviour needs: a backend, and a configuration.
pub struct Setup {
    script: Arc<dyn Fn(Connection) + Send + Sync>,
    route: String,
    routes: Option<String>,
    rest: String,
    listener: String,
    only: fn(&Combination) -> bool,
}

/// One combination, set up.
pub struct Case {
    pub combination: Combination,
    pub proxy: Proxy,
    /// After the proxy, so that it is dropped last: scripts end with the proxy.
    pub backend: Backend,
    certificate: Option<Certificate>,
    /// What connections begin with, before everything else.
    pub first: Vec<u8>,
}

impl Setup {
    /// With a backend that runs this for each connection.
    pub fn new(script: impl Fn(Connection) + Send + Sync + 'static) -> Self {
        let (route, rest) = (String::new(), "drain: {timeout: 2m}\n".to_owned());
        Self { script: Arc::new(script), route, routes: None, rest, listener: String::new(), only: |_| true }
    }

    /// With a backend that answers each request with these bytes, each part in its own write, and closes.
    pub fn answering(parts: Vec<Vec<u8>>) -> Self {
        Self::new(move |mut connection| {
            for part in &parts {
                connection.send(part);
            }
        })
    }

    /// Keys of the route, in one line: `heartbeat: {interval: 0}, stream: always`.
    pub fn route(mut self, keys: &str) -> Self {
        self.route = keys.to_owned();
        self
    }

    /// All routes, as a list in YAML; the upstream is called `app`.
    pub fn routes(mut self, yaml: &str) -> Self {
        self.routes = Some(yaml.to_owned());
        self
    }

    /// What else the configuration has, in place of a drain that nothing has to wait for.
    pub fn rest(mut self, yaml: &str) -> Self {
        self.rest = yaml.to_owned();
        self
    }

    /// Further keys of the listener, each with a comma in front.
    pub fn listener(mut self, keys: &str) -> Self {
        self.listener = keys.to_owned();
        self
    }

    /// Only in these combinations: say why where it is called.
    pub fn only(mut self, only: fn(&Combination) -> bool) -> Self {
        self.only = only;
        self
    }

    /// Runs the behaviour in every combination, several at once. Fails with those in which it does not hold.
    pub fn check(&self, behaviour: impl Fn(&mut Case) + Send + Sync) {
        let combinations: Vec<_> = COMBINATIONS.into_iter().filter(self.only).collect();
        assert!(!combinations.is_empty(), "no combination is left");
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(combinations.len()) {
                scope.spawn(|| {
                    while let Some(combination) = combinations.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = || behaviour(&mut self.start(*combination));
                        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                            failed.lock().unwrap().push(format!("{combination}: {}", message(panic.as_ref())));
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{} of {} fail:\n{}", failed.len(), combinations.len(), failed.join("\n"));
    }

    fn start(&self, combination: Combination) -> Case {
        let script = self.script.clone();
        let backend = Backend::start(move |connection| script(connection));
        let certificate = combination.protocol.is_tls().then(Certificate::new);
        let tls = certificate.as_ref().map_or(String::new(), |certificate| format!(", tls: {}", certificate.yaml()));
        let h2c = if combination.protocol == Protocol::Http2 { ", h2c: true" } else { "" };
        let listener = format!("{{address: 127.0.0.1:0{tls}{h2c}{}}}", self.listener);
        let routes = self.routes.clone().unwrap_or_else(|| format!("[{{upstream: app, {}}}]", self.route));
        let config = format!(
            "threads: {}\nupstreams: {{app: {{servers: ['{}']}}}}\nroutes: {routes}\n{}",
            combination.threads, backend.address, self.rest
        );
        let driver = if combination.driver == Driver::Reactor { "parked" } else { "task" };
        let proxy = Proxy::start_on(driver, &[], &listener, &config);
        Case { combination, proxy, backend, certificate, first: Vec::new() }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

impl Case {
    /// Sends a request on a new connection.
    pub fn send(&self, request: Request) -> Exchange {
        Exchange::begin(&self.way(), request)
    }

    /// A request for a stream.
    pub fn stream(&self, path: &str) -> Exchange {
        self.send(Request::stream(path))
    }

    /// A request for a stream by a client that reads nothing.
    pub fn stalled_stream(&self, path: &str) -> Exchange {
        Exchange::begin(&Way { stalled: true, ..self.way() }, Request::stream(path))
    }

    fn way(&self) -> Way<'_> {
        Way {
            address: self.proxy.address,
            protocol: self.combination.protocol,
            certificate: self.certificate.as_ref().map(|certificate| certificate.cert.as_path()),
            in_pieces: self.combination.in_pieces,
            stalled: false,
            first: &self.first,
        }
    }

    /// Checks that the next line of the access log has this end.
    pub fn logs_end(&self, end: &str) -> serde_json::Value {
        let line = self.proxy.log_line();
        assert_eq!(line["end"], end, "{line}");
        line
    }

    /// A metric of the one route, with further labels if it has any.
    pub fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let comma = if labels.is_empty() { "" } else { "," };
        self.proxy.metric(&format!("{name}{{route=\"/\"{comma}{labels}}}"))
    }
}
