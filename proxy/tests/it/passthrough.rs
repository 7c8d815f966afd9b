//! Every upstream byte reaches the client once, in order, unchanged, and at once: tests on the bytes of HTTP/1.1.

use std::time::Duration;

use crate::support::{Backend, CHUNKED, Client, Proxy, UNTIL_CLOSE, body_of, chunk, dechunk};

/// No heartbeat comes into these streams.
const QUIET: &str = "    heartbeat: {interval: 0}";

const EVENTS: &[u8] =
    b"\xEF\xBB\xBFid: 1\ndata: a\n\nevent: x\rdata: b\r\rdata: c\r\n\r\n: comment\n\ndata: \xC3\xA9\n\n";

#[test]
fn chunked_bodies_pass_whole_at_every_split() {
    let body = EVENTS.to_vec();
    let backend = Backend::start(|mut connection| {
        let cut: usize = connection.path().rsplit('/').next().unwrap().parse().unwrap();
        let wire =
            [chunk(&EVENTS[..EVENTS.len() / 2]), chunk(&EVENTS[EVENTS.len() / 2..]), b"0\r\n\r\n".to_vec()].concat();
        connection.send(CHUNKED);
        connection.send(&wire[..cut]);
        // The first part is on its own, not merged by the kernel, once the proxy has had time to see it.
        std::thread::sleep(Duration::from_millis(2));
        connection.send(&wire[cut..]);
    });
    let proxy = Proxy::start(backend.address, QUIET);
    for cut in 0..EVENTS.len() + 10 {
        let mut client = proxy.stream(&format!("/events/{cut}"));
        assert_eq!(client.read_head().status, 200);
        assert_eq!(body_of(&client.read_to_end().unwrap()), body, "cut at {cut}");
    }
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let backend = Backend::answering(vec![CHUNKED.into(), chunk(EVENTS), b"0\r\n\r\n".to_vec()]);
    let proxy = Proxy::start(backend.address, QUIET);
    let mut client = proxy.connect();
    client.send("GET /events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n");
    let head = client.read_head();
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("connection").as_deref(), Some("close"));
    assert_eq!(client.read_to_end().unwrap(), EVENTS);
}

#[test]
fn heads_are_changed_only_where_it_matters() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: keep-alive\r\n\
                Keep-Alive: timeout=5\r\nAccess-Control-Allow-Origin: *\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                Cache-Control: no-store\r\n\r\n";
    let backend = Backend::answering(vec![head.into(), b"data: a\n\n".to_vec()]);
    let proxy = Proxy::start(backend.address, QUIET);
    let mut client = proxy.connect();
    client.send(
        "GET /events?a=1&b=%20 HTTP/1.1\r\nHost: example.org\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip\r\n\
         Last-Event-ID: 41\r\nCookie: c=3\r\ntraceparent: 00-a-b-01\r\nX-Forwarded-For: 192.0.2.1\r\n\
         Connection: keep-alive, x-hop\r\nX-Hop: 1\r\n\r\n",
    );
    let answer = client.read_head();
    let request = backend.request();
    assert!(request.starts_with("GET /events?a=1&b=%20 HTTP/1.1\r\n"), "{request}");
    for kept in ["Host: example.org", "Last-Event-ID: 41", "Cookie: c=3", "traceparent: 00-a-b-01"] {
        assert!(request.contains(&format!("\r\n{kept}\r\n")), "{kept} in {request}");
    }
    assert!(request.contains("192.0.2.1, 127.0.0.1"), "{request}");
    for gone in ["accept-encoding", "x-hop", "keep-alive"] {
        assert!(!request.to_lowercase().contains(gone), "{gone} in {request}");
    }
    assert_eq!(answer.header("content-type").as_deref(), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"));
    assert_eq!(answer.header("set-cookie").as_deref(), Some("a=1, b=2"));
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store, no-cache, no-transform"));
    assert_eq!(answer.header("x-accel-buffering").as_deref(), Some("no"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(answer.header("keep-alive"), None);
}

#[test]
fn a_post_streams_its_body_and_its_expectation_is_answered() {
    let backend = Backend::start(|mut connection| {
        connection.read_until(|rest| rest.ends_with(b"0\r\n\r\n"));
        let body = dechunk(&connection.rest).0;
        connection.send(UNTIL_CLOSE);
        connection.send(format!("data: {} bytes\n\n", body.len()));
    });
    let proxy = Proxy::start(backend.address, "    stream: always\n    heartbeat: {interval: 0}");
    let mut client = proxy.connect();
    client.send("POST /v1/chat HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_head().status, 100);
    for _ in 0..100 {
        client.send(&format!("3e8\r\n{}\r\n", "x".repeat(1000)));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(body_of(&client.read_to_end().unwrap()), b"data: 100000 bytes\n\n");
    assert!(!backend.request().to_lowercase().contains("expect"));
}

#[test]
fn a_large_burst_passes_a_slow_reader_in_order() {
    const COUNT: usize = 100_000;
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        let events: String = (0..COUNT).map(|id| format!("id: {id}\ndata: x\n\n")).collect();
        connection.send(events);
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 20ms}");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    client.read_head();
    let body = String::from_utf8(body_of(&client.read_to_end().unwrap())).unwrap();
    let ids: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), COUNT);
    assert!(ids.iter().enumerate().all(|(at, id)| id.parse() == Ok(at)), "in order, once");
    let log = proxy.log_line();
    assert_eq!((log["events"].as_u64(), log["end"].as_str()), (Some(COUNT as u64), Some("upstream_end")));
}
