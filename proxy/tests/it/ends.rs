//! Which side closes first, and how the other side sees it.

use std::io::{ErrorKind, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{
    BROKEN, Backend, CHUNKED, Certificate, DEADLINE, Proxy, UNTIL_CLOSE, chunk, contains, dechunk, eventually,
};

#[test]
fn a_client_that_closes_a_silent_stream_closes_the_upstream() {
    let (sender, closed) = channel();
    let backend = Backend::start(move |mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        let _ = sender.send(connection.closed_by_proxy());
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 0}");
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has("data: a\n\n");
    drop(client);
    assert!(closed.recv_timeout(DEADLINE).unwrap(), "the upstream's connection is closed");
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

#[test]
fn a_client_that_closes_before_the_head_closes_the_upstream() {
    let (sender, closed) = channel();
    let backend = Backend::start(move |mut connection| {
        let _ = sender.send(connection.closed_by_proxy());
    });
    let proxy = Proxy::start(backend.address, "");
    let client = proxy.stream("/events");
    backend.request();
    drop(client);
    assert!(closed.recv_timeout(DEADLINE).unwrap());
    eventually("the failure is counted", || {
        let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"client_gone\"}";
        (proxy.metric(metric) == Some(1.0)).then_some(())
    });
}

#[test]
fn a_client_that_closes_while_it_is_behind_closes_the_upstream() {
    let (sender, closed) = channel();
    let backend = Backend::start(move |mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let event = b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000);
        while std::io::Write::write_all(&mut connection.socket, &event).is_ok() {}
        let _ = sender.send(());
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {write: 0, idle: 0}");
    let mut client = proxy.stream("/events");
    client.read_head();
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    closed.recv_timeout(DEADLINE).expect("the flood is broken off");
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

#[test]
fn a_broken_upstream_differs_from_a_clean_end() {
    let cases: [(&str, &[u8], bool, &str); 5] = [
        (CHUNKED, b"9\r\ndata: a\n\n\r\n0\r\n\r\n", true, "upstream_end"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\n", false, "upstream_broken"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\n5\r\nda", false, "upstream_broken"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\nnonsense\r\n", false, "upstream_protocol"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n",
            b"data: a\n\n",
            false,
            "upstream_broken",
        ),
    ];
    for (head, wire, clean, reason) in cases {
        let backend = Backend::answering(vec![head.into(), wire.to_vec()]);
        let proxy = Proxy::start(backend.address, "");
        let mut client = proxy.stream("/events");
        client.read_head();
        let wire_to_client = client.read_to_end().unwrap();
        let (body, end) = dechunk(&wire_to_client);
        assert!(body.starts_with(b"data: a\n\n"), "received bytes are forwarded: {reason}");
        assert_eq!(wire_to_client.ends_with(BROKEN), !clean, "a broken end is signalled explicitly: {reason}");
        assert_eq!(end.is_some(), clean, "{reason} for {wire:?}");
        let log = proxy.log_line();
        assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some(reason), Some(clean)));
    }
}

#[test]
fn an_upstream_that_resets_breaks_the_stream() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        std::thread::sleep(Duration::from_millis(50));
        connection.reset();
    });
    let proxy = Proxy::start(backend.address, "");
    let mut client = proxy.stream("/events");
    client.read_head();
    let (body, end) = dechunk(&client.read_to_end().unwrap());
    assert_eq!((body.as_slice(), end), (&b"data: a\n\n"[..], None));
    assert_eq!(proxy.log_line()["end"], "upstream_broken");
}

#[test]
fn a_stream_is_logged_once_with_what_it_carried() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n: c\n\ndata: b\n\n".to_vec()]);
    let proxy = Proxy::start(backend.address, "    name: news");
    proxy.stream("/events?x=%22").read_to_end().unwrap();
    let log = proxy.log_line();
    assert_eq!(log["route"], "news");
    assert_eq!(log["method"], "GET");
    assert_eq!(log["path"], "/events?x=%22");
    assert_eq!(log["upstream"], backend.address.to_string());
    assert_eq!(log["events"], 2);
    assert_eq!(log["bytes"], 23);
    assert!(log["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(proxy.metric("sse_proxy_streams_ended_total{route=\"news\",reason=\"upstream_end\"}"), Some(1.0));
    assert_eq!(proxy.metric("sse_proxy_streams_active{route=\"news\"}"), Some(0.0));
}

/// Invariant: the work that a client causes on a running stream is bounded. Mechanism: whatever it sent was read and
/// discarded. Symptom: a client that kept sending took a tenth of a core.
#[test]
fn a_client_that_floods_its_own_stream_is_closed() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    for listener in ["{address: 127.0.0.1:0}", "{address: 127.0.0.1:0, h2c: true}"] {
        let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
        let proxy = Proxy::start_listening(listener, &config);
        let mut client = proxy.stream("/events");
        client.read_head();
        client.read_until_body_has("data: a\n\n");
        let mut sent = 0;
        let cut = loop {
            match client.socket.write(&[b'x'; 4096]) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < 100_000_000, "unbounded reading");
        };
        assert!(matches!(cut.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{cut}");
        let log = proxy.log_line();
        assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some("client_flood"), Some(false)), "{listener}");
    }
}

#[test]
fn bytes_of_a_client_on_a_running_stream_are_discarded() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        std::thread::sleep(Duration::from_millis(100));
        connection.send(chunk(b"data: b\n\n"));
        connection.send(b"0\r\n\r\n");
    });
    let proxy = Proxy::start(backend.address, "");
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has("data: a\n\n");
    client.send("GET /another HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_until_body_has("data: b\n\n");
    assert_eq!(proxy.log_line()["end"], "upstream_end");
}

/// A client that shuts down its sending side counts as one that has closed its connection, on every path: a proxy cannot tell
/// the two apart on a silent stream, and a stream is there for its client alone.
#[test]
fn a_half_closed_client_is_a_client_that_has_closed() {
    for (driver, tls) in [("parked", false), ("task", false), ("parked", true)] {
        for path in ["/page", "/running-page", "/stream", "/running-stream"] {
            let name = format!("{path}, {driver}, TLS: {tls}");
            let (sender, closed) = channel();
            let backend = Backend::start(move |mut connection| {
                match connection.path() {
                    "/running-page" => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\npart"),
                    "/running-stream" => {
                        connection.send(CHUNKED);
                        connection.send(chunk(b"data: part\n\n"));
                    }
                    _ => {}
                }
                let _ = sender.send(connection.closed_by_proxy());
            });
            let certificate = Certificate::new();
            let listener = if tls { format!(", tls: {}", certificate.yaml()) } else { String::new() };
            let proxy = Proxy::start_on(
                driver,
                &[],
                &format!("{{address: 127.0.0.1:0{listener}}}"),
                &format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address),
            );
            let mut client = if tls { proxy.connect_tls() } else { proxy.connect() };
            let accept = if path.ends_with("stream") { "Accept: text/event-stream\r\n" } else { "" };
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{accept}\r\n"));
            backend.request();
            if path.starts_with("/running") {
                client.read_head();
                client.read_until(|bytes| contains(bytes, b"part"));
            }
            client.socket.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(closed.recv_timeout(DEADLINE).expect(&name), "the upstream's connection is closed: {name}");
        }
    }
}
