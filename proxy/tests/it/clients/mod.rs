//! Common clients through the proxy: a browser, and libraries that read event streams.
//!
//! `make test` installs them (`scripts/setup-clients`). Where one cannot be installed its tests say so and skip; not in CI.

mod breaks;
mod chromium;
mod in_chromium;
mod libraries;
mod limits;
mod styles;
mod unavailable;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Backend, Certificate, Connection, DEADLINE, Proxy};

/// A file or folder that `scripts/setup-clients` installs; `None`, with a message, if it is missing.
pub(crate) fn installed(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let path = target.join("clients").join(path);
    path.exists().then_some(path.clone()).or_else(|| skip(&path.display().to_string()))
}

/// The folder in which npm has installed packages.
pub(crate) fn npm_folder() -> Option<PathBuf> {
    installed("node/node_modules").and(installed("node"))
}

/// Says that something is missing. In CI that is a failure.
fn skip<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing; scripts/setup-clients installs it");
    say_skipped(what)
}

/// The same for what `scripts/setup-clients` does not install: never a failure.
fn say_skipped<T>(what: &str) -> Option<T> {
    eprintln!("SKIPPED: {what} is missing");
    None
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a client to its end, and returns its output as JSON. `timeout` ends one that hangs.
pub(crate) fn run(command: &Command) -> serde_json::Value {
    let mut limited = Command::new("timeout");
    limited.arg(DEADLINE.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}\n{errors}"))
}

/// Over which protocol a browser reaches the proxy.
#[derive(Clone, Copy, Debug)]
enum Http {
    One,
    Two,
}

impl Http {
    /// As the browser calls it.
    fn name(self) -> &'static str {
        match self {
            Http::One => "http/1.1",
            Http::Two => "h2",
        }
    }

    /// The proxy in front of `backend` with these routes (YAML, one line), and its origin as a browser writes it.
    fn front(self, backend: &Backend, routes: &str) -> (Proxy, String) {
        let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\nroutes: {routes}\n", backend.address);
        match self {
            Http::One => {
                let proxy = Proxy::start_with(&config);
                let origin = format!("http://{}", proxy.address);
                (proxy, origin)
            }
            Http::Two => {
                let certificate = Certificate::new();
                let listener = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
                let proxy = Proxy::start_listening(&listener, &config);
                let origin = format!("https://localhost:{}", proxy.address.port());
                (proxy, origin)
            }
        }
    }
}

/// An HTML page at `/`, and streams everywhere else.
fn site(page: &'static str, stream: impl Fn(Connection) + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut connection| match connection.path() {
        "/" => connection.answer("text/html", page),
        "/favicon.ico" => connection.answer("image/x-icon", ""),
        _ => stream(connection),
    })
}

/// The head of the next request for a stream.
fn stream_request(backend: &Backend) -> String {
    loop {
        let head = backend.request();
        if !head.starts_with("GET / ") && !head.starts_with("GET /favicon.ico ") {
            return head;
        }
    }
}
