//! Common backends, from `examples/backends`, each behind the proxy and behind nginx and the proxy.
//!
//! They serve the same paths, so that the same tests apply to all of them; what is specific to one is in its own file.
//! `scripts/setup-examples`, which `make test` calls, installs what they are built on.

mod chat;
mod example;
mod express;
mod php;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{Client, Head, Program, Proxy, dechunk, eventually, nginx_in_front_of};
use example::{Example, Pace};

/// Heartbeats that differ from a backend's own comments.
const ROUTE: &str = "    heartbeat: {interval: 60ms, payload: proxy}";
const HEARTBEAT: &str = ": proxy\n\n";

/// How long a backend may take to detect a disconnect: about a second, and much more on a busy machine.
const NOTICED: Duration = Duration::from_secs(30);

/// A backend with both ways to it.
struct Paths {
    backend: Example,
    proxy: Proxy,
    front: SocketAddr,
    _nginx: (Program, tempfile::TempDir),
}

impl Paths {
    fn to(name: &str, pace: Pace) -> Option<Self> {
        let backend = Example::start(name, pace)?;
        let proxy = Proxy::start(backend.address, ROUTE);
        let (nginx, front, directory) = nginx_in_front_of(proxy.address);
        Some(Self { backend, proxy, front, _nginx: (nginx, directory) })
    }

    fn each(&self) -> [(&'static str, SocketAddr); 2] {
        [("proxy", self.proxy.address), ("nginx and proxy", self.front)]
    }
}

/// Opens a stream; its head has been checked.
fn open(address: SocketAddr, path: &str, headers: &str) -> Client {
    answer(address, path, headers).1
}

fn answer(address: SocketAddr, path: &str, headers: &str) -> (Head, Client) {
    let mut client = Client::connect(address);
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n{headers}\r\n"));
    let head = client.read_head();
    assert_eq!(head.status, 200, "{head:?}");
    let kind = head.header("content-type").unwrap_or_default();
    assert_eq!(kind.split(';').next(), Some("text/event-stream"), "{head:?}");
    (head, client)
}

/// The body of a stream that ends by itself, after it has ended in order.
fn whole(address: SocketAddr, path: &str, headers: &str) -> String {
    let (head, mut client) = answer(address, path, headers);
    let body = match head.header("transfer-encoding") {
        Some(_) => dechunk(client.read_until(|bytes| dechunk(bytes).1.is_some_and(|end| end == b"\r\n"))).0,
        // PHP's built-in server ends a body by closing.
        None => client.read_to_end().unwrap(),
    };
    String::from_utf8(body).unwrap()
}

/// The number at a path of the backend, asked for directly.
fn number(address: SocketAddr, path: &str) -> Option<usize> {
    let mut client = Client::connect(address);
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    let head = client.read_head();
    assert_eq!(head.status, 200, "{head:?}");
    let mut body = client.read_to_end().unwrap();
    if head.header("transfer-encoding").is_some() {
        body = dechunk(&body).0;
    }
    String::from_utf8(body).unwrap().trim().parse().ok()
}

/// Waits until the backend counts this many clients; how long it took.
fn clients(backend: &Example, wanted: usize) -> Duration {
    let start = Instant::now();
    eventually(&format!("the backend has {wanted} clients"), || {
        (number(backend.address, "/clients") == Some(wanted)).then_some(())
    });
    start.elapsed()
}

/// The ids of the events named `tick`, by the rules of the format, whatever line ends the backend uses.
fn ids(body: &str) -> Vec<u64> {
    let body = body.replace("\r\n", "\n");
    let mut ids = Vec::new();
    for block in body.split_terminator("\n\n") {
        let fields: Vec<(&str, &str)> = block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value)))
            .collect();
        let value = |wanted| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        if value("event") == Some("tick") {
            let id = value("id").unwrap_or_else(|| panic!("no id: {block:?}")).parse().unwrap();
            let data = value("data").unwrap_or_else(|| panic!("no data: {block:?}"));
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(data.get("number").or(data.get("id")), Some(&serde_json::json!(id)), "{block:?}");
            ids.push(id);
        }
    }
    ids
}

fn events_arrive_whole_and_in_order(name: &str) {
    let Some(paths) = Paths::to(name, Pace { interval_ms: 150, count: 5 }) else { return };
    let direct = whole(paths.backend.address, "/events", "");
    assert_eq!(ids(&direct), [1, 2, 3, 4, 5], "{direct:?}");
    for (path, address) in paths.each() {
        let body = whole(address, "/events", "");
        assert!(body.contains(HEARTBEAT), "{path}: no heartbeat in the pauses: {body:?}");
        assert_eq!(body.replace(HEARTBEAT, ""), direct, "{path}");
    }
}

fn its_own_comments_survive_byte_for_byte(name: &str) {
    let Some(paths) = Paths::to(name, Pace { interval_ms: 150, count: 3 }) else { return };
    let direct = whole(paths.backend.address, "/events?comments=1", "");
    for number in 1..=3 {
        // Backends differ in the space after the colon.
        assert_eq!(
            direct.replace(": before", ":before").matches(&format!(":before {number}")).count(),
            1,
            "{direct:?}"
        );
    }
    for (path, address) in paths.each() {
        let body = whole(address, "/events?comments=1", "");
        assert_eq!(body.replace(HEARTBEAT, ""), direct, "{path}");
    }
}

fn a_silent_stream_gets_heartbeats(name: &str) {
    let Some(paths) = Paths::to(name, Pace::ENDLESS) else { return };
    for (path, address) in paths.each() {
        let mut client = open(address, "/events?silent=1", "");
        let body = client.read_until_body_has(&HEARTBEAT.repeat(3));
        assert!(ids(&body).is_empty(), "{path}: {body:?}");
    }
}

fn a_reconnect_goes_on_after_the_last_event(name: &str) {
    let Some(paths) = Paths::to(name, Pace { interval_ms: 20, count: 2 }) else { return };
    for (path, address) in paths.each() {
        assert_eq!(ids(&whole(address, "/events", "Last-Event-ID: 41\r\n")), [42, 43], "{path}");
    }
}

fn the_backend_notices_a_client_that_leaves(name: &str, streams: &[&str]) {
    let Some(paths) = Paths::to(name, Pace::ENDLESS) else { return };
    for (path, address) in paths.each() {
        for stream in streams {
            let stays = open(address, stream, "");
            let mut leaves = open(address, stream, "");
            leaves.read_until(|bytes| !bytes.is_empty());
            clients(&paths.backend, 2);
            drop(leaves);
            let took = clients(&paths.backend, 1);
            assert!(took < NOTICED, "{path}, {stream}: noticed after {took:?}");
            drop(stays);
            clients(&paths.backend, 0);
        }
    }
}

/// The same tests for each backend, and the streams on which it detects a disconnect.
macro_rules! backends {
    ($($name:ident notices on $streams:expr;)*) => {$(
        mod $name {
            const NAME: &str = stringify!($name);

            #[test]
            fn events_arrive_whole_and_in_order() {
                super::super::events_arrive_whole_and_in_order(NAME);
            }

            #[test]
            fn its_own_comments_survive_byte_for_byte() {
                super::super::its_own_comments_survive_byte_for_byte(NAME);
            }

            #[test]
            fn a_silent_stream_gets_heartbeats() {
                super::super::a_silent_stream_gets_heartbeats(NAME);
            }

            #[test]
            fn a_reconnect_goes_on_after_the_last_event() {
                super::super::a_reconnect_goes_on_after_the_last_event(NAME);
            }

            #[test]
            fn the_backend_notices_a_client_that_leaves() {
                super::super::the_backend_notices_a_client_that_leaves(NAME, &$streams);
            }
        }
    )*};
}

mod every {
    backends! {
        node notices on ["/events", "/events?silent=1"];
        express notices on ["/events", "/events?silent=1"];
        fastapi notices on ["/events", "/events?silent=1"];
        // These detect it only when they write.
        spring notices on ["/events"];
        php notices on ["/events"];
        php_built_in notices on ["/events"];
    }
}
