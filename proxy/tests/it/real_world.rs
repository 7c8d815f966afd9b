//! Third-party programs: a plain Node backend, nginx in front, curl and Node's fetch as clients.
//!
//! `make test` installs them where they are missing; without them these tests fail, and say what is missing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::{Program, Proxy, nginx_in_front_of, root};

/// The Node backend and its address.
fn node_backend(interval_ms: u32, count: u32) -> (Program, SocketAddr) {
    let mut command = Command::new("node");
    command.arg(root().join("examples/backends/node/server.js")).env("PORT", "0");
    command.env("INTERVAL_MS", interval_ms.to_string()).env("COUNT", count.to_string());
    let program = Program::start(&mut command);
    let address = program.address();
    (program, address)
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["--silent", "--show-error", "--max-time", "60"]).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("curl: {error}; `make setup` installs it"));
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fetch(url: &str, count: u32) -> Vec<serde_json::Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/fetch.mjs");
    let output = Command::new("node").arg(script).arg(url).arg(count.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const ROUTE: &str = "    heartbeat: {interval: 60ms}";

/// The three events of a finite stream, each whole, with at least one heartbeat somewhere between them.
fn check_curl(url: &str) {
    let body = curl(&["--no-buffer", "--header", "Accept: text/event-stream", url]);
    assert!(body.contains(":\n\n"), "a heartbeat in the silence: {body:?}");
    let events = body.replace(":\n\n", "");
    let blocks: Vec<&str> = events.split_terminator("\n\n").collect();
    assert_eq!(blocks.len(), 3, "{events:?}");
    for (at, block) in blocks.iter().enumerate() {
        let start = format!("id: {}\nevent: tick\ndata: {{\"id\":{},", at + 1, at + 1);
        assert!(block.starts_with(&start), "{block:?}");
    }
}

fn check_fetch(url: &str) {
    let lines = fetch(url, 3);
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[0]["type"], "text/event-stream");
    let ids: Vec<&str> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert!(lines.iter().any(|line| line["comment"] == ":"), "a heartbeat: {lines:?}");
}

#[test]
fn a_node_backend_streams_through_the_proxy_to_curl_and_fetch() {
    let (_node, backend) = node_backend(200, 3);
    let proxy = Proxy::start(backend, ROUTE);
    let url = format!("http://{}/events", proxy.address);
    check_curl(&url);
    check_fetch(&url);
    assert_eq!(curl(&[&format!("http://{}/page", proxy.address)]), "hello from /page\n");
}

#[test]
fn a_node_backend_streams_through_nginx_and_the_proxy() {
    let (_node, backend) = node_backend(200, 3);
    let proxy = Proxy::start(backend, ROUTE);
    let (_nginx, front, _directory) = nginx_in_front_of(proxy.address);
    let url = format!("http://{front}/events");
    check_curl(&url);
    check_fetch(&url);
    assert_eq!(curl(&[&format!("http://{front}/page")]), "hello from /page\n");
}

#[test]
fn a_node_backend_detects_a_disconnect_behind_nginx() {
    let (node, backend) = node_backend(50, 1_000_000);
    let proxy = Proxy::start(backend, ROUTE);
    let (_nginx, front, _directory) = nginx_in_front_of(proxy.address);
    // fetch leaves after two events.
    fetch(&format!("http://{front}/events"), 2);
    let line = node.line();
    assert!(line.starts_with("closed after "), "{line}");
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

#[test]
fn a_reconnect_carries_its_last_event_id_to_the_backend() {
    let (_node, backend) = node_backend(20, 2);
    let proxy = Proxy::start(backend, ROUTE);
    let url = format!("http://{}/events", proxy.address);
    let body = curl(&["--header", "Accept: text/event-stream", "--header", "Last-Event-ID: 41", &url]);
    assert!(body.replace(":\n\n", "").starts_with("id: 42\n"), "{body:?}");
}
