//! How streams end, in the bytes of HTTP/1.1.

use std::io::{ErrorKind, Write};
use std::sync::mpsc::channel;

use crate::support::{BROKEN, Backend, CHUNKED, Certificate, DEADLINE, Proxy, chunk, contains, dechunk};

/// Clients that ignore a missing last chunk see a size that is none.
#[test]
fn a_broken_end_is_signalled_by_an_invalid_chunk_size() {
    for (rest, broken) in [("0\r\n\r\n", false), ("", true), ("5\r\nda", true), ("nonsense\r\n", true)] {
        let backend = Backend::answering(vec![CHUNKED.into(), chunk(b"data: a\n\n"), rest.into()]);
        let proxy = Proxy::start(backend.address, "");
        let mut client = proxy.stream("/events");
        client.read_head();
        let wire = client.read_to_end().unwrap();
        assert!(dechunk(&wire).0.starts_with(b"data: a\n\n"), "{rest:?}");
        assert_eq!(wire.ends_with(BROKEN), broken, "{rest:?}");
    }
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
        connection.wait_for_test();
        connection.send(chunk(b"data: b\n\n"));
        connection.send(b"0\r\n\r\n");
    });
    let proxy = Proxy::start(backend.address, "");
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has("data: a\n\n");
    client.send("GET /another HTTP/1.1\r\nHost: test\r\n\r\n");
    backend.proceed(1);
    client.read_until_body_has("data: b\n\n");
    let end = client.read_to_end().unwrap();
    assert!(end.ends_with(b"0\r\n\r\n"), "nothing answers those bytes: {:?}", String::from_utf8_lossy(&end));
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
