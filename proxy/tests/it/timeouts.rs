//! Each timeout on its own, each while something else is being waited for.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Backend, CHUNKED, Client, DEADLINE, Proxy, UNTIL_CLOSE, chunk, dechunk, eventually};

#[test]
fn a_server_that_refuses_is_a_502_that_says_so() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(unused, "");
    let mut client = proxy.stream("/events");
    let head = client.read_head();
    assert_eq!(head.status, 502);
    assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=connection_refused"));
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.contains("cannot connect to the upstream") && !body.contains(&unused.to_string()), "{body}");
    let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"connect_failed\"}";
    assert_eq!(proxy.metric(metric), Some(1.0));
    eventually("the log says so", || proxy.stderr().contains("side=upstream").then_some(()));
}

#[test]
fn a_server_that_does_not_answer_the_handshake_is_a_504_that_names_connect() {
    // A full accept queue: the kernel drops what comes next without a word.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let queued: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let proxy = Proxy::start(address, "    timeouts: {connect: 300ms}");
    let mut client = proxy.stream("/events");
    assert_eq!(client.read_head().status, 504);
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.contains("timeouts.connect"), "{body}");
    drop(queued);
}

#[test]
fn another_server_is_tried_when_one_refuses() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let proxy = Proxy::start_with(&format!("upstreams: {{app: {{servers: ['{unused}', '{}']}}}}\n", backend.address));
    for _ in 0..4 {
        let mut client = proxy.stream("/events");
        assert_eq!(client.read_head().status, 200);
        client.read_until_body_has("data: a\n\n");
    }
}

/// Invariant: deadlines fire whatever else happens. Mechanism: a head that was there was taken before the clock was looked
/// at, and there was always another. Symptom: the request waits for ever, and its client reads interim answers.
#[test]
fn interim_answers_without_end_do_not_put_the_first_byte_off() {
    let backend = Backend::start(|mut connection| {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10_000);
        while connection.socket.write_all(interim.as_bytes()).is_ok() {}
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {first_byte: 300ms}");
    let mut client = proxy.stream("/events");
    let (until, mut buffer, mut last) = (Instant::now() + DEADLINE / 2, vec![0; 1 << 16], 1);
    while last > 0 {
        assert!(Instant::now() < until, "interim answers go on");
        last = client.socket.read(&mut buffer).unwrap();
    }
    let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"first_byte_timeout\"}";
    assert_eq!(proxy.metric(metric), Some(1.0));
}

#[test]
fn an_upstream_without_a_head_is_a_504_that_names_first_byte() {
    let backend = Backend::start(|connection| connection.hang());
    let proxy = Proxy::start(backend.address, "    timeouts: {first_byte: 200ms}");
    let mut client = proxy.stream("/events");
    assert_eq!(client.read_head().status, 504);
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.contains("timeouts.first_byte (200ms)"), "{body}");
}

#[test]
fn an_upstream_that_closes_or_garbles_its_head_is_a_502() {
    let smuggling = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: gzip\r\n\r\n";
    let cases = [
        ("", "upstream_broken"),
        ("HTTP/1.1 200", "upstream_broken"),
        ("not http at all\r\n\r\n", "upstream_broken"),
        (smuggling, "upstream_invalid"),
    ];
    for (answer, reason) in cases {
        let backend = Backend::answering(vec![answer.into()]);
        let proxy = Proxy::start(backend.address, "");
        let mut client = proxy.stream("/events");
        assert_eq!(client.read_head().status, 502, "{answer:?}");
        let failures = format!("sse_proxy_upstream_failures_total{{route=\"/\",reason=\"{reason}\"}}");
        assert_eq!(proxy.metric(&failures), Some(1.0), "{answer:?}");
    }
}

#[test]
fn a_silent_upstream_is_cut_though_heartbeats_flow_and_the_client_can_tell() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 50ms}\n    timeouts: {idle: 400ms}");
    let mut client = proxy.stream("/events");
    client.read_head();
    let (body, end) = dechunk(&client.read_to_end().unwrap());
    assert!(String::from_utf8(body).unwrap().starts_with("data: a\n\n:\n\n"));
    assert_eq!(end, None, "no last chunk: the body is not complete");
    let log = proxy.log_line();
    assert_eq!((log["end"].as_str(), log["side"].as_str()), (Some("idle_timeout"), Some("upstream")));
}

#[test]
fn a_cut_stream_without_framing_is_reset() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.send(b"data: a\n\n");
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {idle: 300ms}");
    let mut client = proxy.connect();
    client.send("GET /events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n");
    client.read_head();
    let end = client.read_to_end().expect_err("a reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn comments_keep_a_stream_alive_unless_told_otherwise() {
    let backend = || {
        Backend::start(|mut connection| {
            connection.send(UNTIL_CLOSE);
            for _ in 0..40 {
                connection.send(b": here\n\n");
                std::thread::sleep(Duration::from_millis(25));
            }
        })
    };
    let (keeps, ignores) = (backend(), backend());
    let proxy = Proxy::start(keeps.address, "    timeouts: {idle: 500ms}");
    proxy.stream("/events").read_to_end().unwrap();
    assert_eq!(proxy.log_line()["end"], "upstream_end");
    let proxy = Proxy::start(ignores.address, "    timeouts: {idle: 500ms, idle_ignores_comments: true}");
    proxy.stream("/events").read_to_end().unwrap();
    assert_eq!(proxy.log_line()["end"], "idle_timeout");
}

#[test]
fn a_client_that_stops_reading_a_flood_is_cut_and_holds_the_upstream_back() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        let event = b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000);
        connection.socket.set_nonblocking(true).unwrap();
        // Writes until the proxy is cut off or does not take any more; what it took is what was held somewhere.
        let mut taken = 0;
        while std::io::Write::write(&mut connection.socket, &event).map(|count| taken += count).is_ok()
            || !peer_closed(&connection.socket)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(taken < 8 << 20, "the proxy and its kernel buffers took {taken} bytes for a client that reads none");
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {write: 400ms}");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    let log = proxy.log_line();
    assert_eq!((log["end"].as_str(), log["side"].as_str()), (Some("write_timeout"), Some("downstream")));
    let passed = log["bytes"].as_u64().unwrap();
    assert!(passed < 1 << 20, "{passed} bytes were read for a client that reads none");
}

fn peer_closed(socket: &std::net::TcpStream) -> bool {
    matches!(socket.peek(&mut [0]), Ok(0))
        || socket.peek(&mut [0]).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
}

/// A write timeout alone cannot see this: the kernel's send buffer takes small events for hours. The client's closed
/// window is what tells, through `TCP_USER_TIMEOUT`.
#[test]
fn a_client_that_stops_reading_small_events_is_found_by_its_closed_window() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        // Ten kilobytes in all: more than the client's window, less than may wait unsent, so that no write ever blocks.
        for _ in 0..100 {
            connection.send(format!("data: {}\n\n", "0123456789".repeat(9)));
            std::thread::sleep(Duration::from_millis(1));
        }
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 0}\n    timeouts: {write: 1s, idle: 0}");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    let log = proxy.log_line();
    assert_eq!(log["end"], "write_timeout");
}

#[test]
fn lifetime_ends_a_stream_in_order_after_the_event_under_way() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        std::thread::sleep(Duration::from_millis(500));
        connection.send(chunk(b" and half\n\ndata: too late\n\n"));
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {lifetime: 200ms, lifetime_jitter: 0%}");
    let mut client = proxy.stream("/events");
    client.read_head();
    let (body, end) = dechunk(&client.read_to_end().unwrap());
    assert_eq!(String::from_utf8(body).unwrap(), "data: half and half\n\n");
    assert_eq!(end.as_deref(), Some(&b"\r\n"[..]), "ended in order");
    assert_eq!(proxy.log_line()["end"], "lifetime");
}

#[test]
fn a_refused_stream_leaves_nothing_running() {
    let backend = Backend::start(|connection| connection.hang());
    let proxy = Proxy::start(backend.address, "    timeouts: {first_byte: 50ms}");
    assert_eq!(proxy.stream("/events").read_head().status, 504);
    eventually("no stream is left", || {
        (proxy.metric("sse_proxy_streams_active{route=\"/\"}") == Some(0.0)).then_some(())
    });
    assert_eq!(proxy.metric("sse_proxy_streams_opened_total{route=\"/\"}"), Some(0.0));
}
