//! The tests for every program in front, with curl and Node as clients.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use super::{curl, proxy, root};
use crate::support::{Backend, CHUNKED, DEADLINE, Proxy, chunk, eventually};

/// A backend that sends one event for each message on the channel, and ends its response cleanly once the channel is
/// closed.
pub fn stepped() -> (Backend, Sender<()>) {
    let (step, steps) = channel();
    let steps = Mutex::new(steps);
    let backend = Backend::start(move |mut connection| {
        connection.send(CHUNKED);
        for number in 1.. {
            if steps.lock().unwrap().recv_timeout(DEADLINE).is_err() {
                break;
            }
            // As backends write it: half an event at a time.
            connection.send(chunk(format!("id: {number}\n").as_bytes()));
            connection.send(chunk(format!("data: event {number}\n\n").as_bytes()));
        }
        connection.send("0\r\n\r\n");
        connection.closed_by_proxy();
    });
    (backend, step)
}

/// Each event arrives before the next one is sent, so nothing on the path buffers. Then a clean end, or curl fails.
pub fn one_by_one(origin: &str, step: Sender<()>, version: &str) {
    let url = format!("{origin}/events");
    let wanted = ["--header", "Accept: text/event-stream", "--write-out", "\nHTTP %{http_version}", &url];
    let mut command = curl(&wanted);
    command.arg(if version == "2" { "--http2" } else { "--http1.1" });
    let mut client = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    for number in 1..=5 {
        step.send(()).unwrap();
        let wanted = format!("data: event {number}\n");
        let mut line = String::new();
        while line != wanted {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{version}: ended or held before event {number}");
        }
    }
    drop(step);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with(&format!("HTTP {version}")), "{rest:?}");
    assert!(client.wait().unwrap().success(), "curl calls a response that breaks off an error");
}

/// An event, then silence: heartbeats arrive on all of many streams. The backend learns when the clients have left.
pub fn heartbeats_and_leaving(start: impl FnOnce(&Proxy) -> super::Front, count: usize) {
    let (left, leaving) = channel();
    let left = Mutex::new(left);
    let backend = Backend::start(move |mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        let closed = connection.closed_by_proxy();
        left.lock().unwrap().send(closed).unwrap();
    });
    let proxy = proxy(backend.address);
    let front = start(&proxy);
    let script = root().join("proxy/tests/clients/http2.mjs");
    let output = Command::new("node").arg(script).arg(front.https()).arg(count.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["protocol"], "h2");
    let results = seen["results"].as_array().unwrap();
    assert_eq!(results.len(), count);
    for result in results {
        assert!(result["text"].as_str().unwrap().starts_with("data: a\n\n:\n\n"), "{result}");
        assert_eq!(
            leaving.recv_timeout(DEADLINE),
            Ok(true),
            "the backend's connection is closed when its client leaves"
        );
        assert_eq!(proxy.log_line()["end"], "client_gone");
    }
}

/// Clients cannot forge their address: the backend gets the address that connected.
pub fn the_real_client(origin: &str, backend: &Backend) {
    for (path, accept) in [("/events", "text/event-stream"), ("/page", "text/html")] {
        let mut command = curl(&["--interface", "127.0.0.9", "--output", "/dev/null"]);
        for claim in [
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Proto: gopher",
            "X-Forwarded-Host: evil.test",
            "Forwarded: for=6.6.6.6",
        ] {
            command.args(["--header", claim]);
        }
        command.args(["--header", &format!("Accept: {accept}"), &format!("{origin}{path}")]);
        assert!(command.status().unwrap().success());
        let request = backend.request().to_lowercase();
        assert!(request.contains("\r\nx-forwarded-for: 127.0.0.9, 127.0.0.1\r\n"), "{request}");
        assert!(request.contains("\r\nx-forwarded-proto: https\r\n"), "{request}");
        let host = origin.trim_start_matches("https://");
        assert!(request.contains(&format!("\r\nhost: {host}\r\n")), "with its port: {request}");
        assert!(request.contains(&format!("\r\nx-forwarded-host: {host}\r\n")), "{request}");
        assert!(!request.contains("6.6.6.6") && !request.contains("evil"), "{request}");
    }
}

/// The proxy's error text for an unreachable backend reaches the client.
pub fn a_refusal(start: impl FnOnce(&Proxy) -> super::Front) {
    let proxy = proxy(super::free());
    let front = start(&proxy);
    let url = format!("{}/events", front.https());
    let output = curl(&["--include", "--header", "Accept: text/event-stream", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(text.starts_with("http/2 502"), "{text}");
    assert!(text.contains("proxy-status: "), "{text}");
    assert!(text.ends_with("\n") && text.contains("502 "), "the body: {text}");
    assert!(text.contains("upstream"), "the body: {text}");
}

/// A backend that breaks off right after an event: the client gets the event, and an error over the HTTP versions over
/// which the program in front can signal one.
pub fn a_broken_end(start: impl FnOnce(&Proxy) -> super::Front, signalled: &[&str]) {
    let backend = Backend::answering(vec![[CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat()]);
    let proxy = proxy(backend.address);
    let front = start(&proxy);
    for version in ["--http1.1", "--http2"] {
        let url = format!("{}/events", front.https());
        let output = curl(&[version, "--header", "Accept: text/event-stream", &url]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "data: a\n\n", "{version}");
        assert_eq!(
            !output.status.success(),
            signalled.contains(&version),
            "{version}: whether the client sees an error"
        );
        assert_eq!(proxy.log_line()["end"], "upstream_broken");
    }
}

/// SIGTERM to the proxy: the client's stream is complete, not cut.
pub fn a_drain(start: impl FnOnce(&Proxy) -> super::Front) {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    let mut proxy = proxy(backend.address);
    let front = start(&proxy);
    let mut client = curl(&["--http2", "--header", "Accept: text/event-stream", &format!("{}/events", front.https())]);
    let mut client = client.stdout(Stdio::null()).spawn().unwrap();
    running(&proxy);
    proxy.terminate();
    assert!(client.wait().unwrap().success(), "curl calls a stream that was cut an error");
    assert_eq!(proxy.log_line()["end"], "drain");
    assert_eq!(proxy.exited().code(), Some(0));
}

/// A WebSocket: the upgrade, and bytes in both directions.
pub fn a_websocket(start: impl FnOnce(&Proxy) -> super::Front) {
    let backend = Backend::start(|mut connection| {
        // The answer to the key that the client sends, in RFC 6455's own example; HAProxy checks it.
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        connection.read_until(|rest| rest.len() >= 4);
        let rest = connection.rest.clone();
        connection.send([b"echo ", &rest[..]].concat());
        connection.closed_by_proxy();
    });
    let proxy = proxy(backend.address);
    let front = start(&proxy);
    let script = root().join("proxy/tests/clients/upgrade.mjs");
    let output = Command::new("node").arg(script).arg(front.https()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "websocket: echo ping\n");
}

/// Waits until the proxy has a running stream.
pub fn running(proxy: &Proxy) {
    eventually("the stream runs", || {
        (proxy.metric("sse_proxy_streams_active{route=\"/\"}") == Some(1.0)).then_some(())
    });
}
