//! Everything that is not a stream passes unchanged: other responses to stream requests, and all other traffic of a
//! backend.

use std::io::{Read, Write};

use crate::support::{Backend, Proxy, UNTIL_CLOSE, body_of, dechunk};

#[test]
fn other_responses_to_a_stream_request_pass_unchanged() {
    let answers: [(u16, &str, &str); 7] = [
        (200, "Content-Type: application/json\r\nContent-Length: 7\r\n", "{\"a\":1}"),
        (401, "WWW-Authenticate: Bearer\r\nContent-Length: 2\r\n", "no"),
        (404, "Content-Length: 0\r\n", ""),
        (204, "", ""),
        (304, "ETag: \"x\"\r\n", ""),
        (302, "Location: /elsewhere\r\nContent-Length: 0\r\n", ""),
        (503, "Retry-After: 5\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n", "data: a\n\n"),
    ];
    for (status, headers, body) in answers {
        let backend = Backend::answering(vec![format!("HTTP/1.1 {status} X\r\n{headers}\r\n{body}").into()]);
        let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 1ms}");
        let mut client = proxy.stream("/events");
        let head = client.read_head();
        assert_eq!(head.status, status);
        for header in headers.lines() {
            let (name, value) = header.split_once(": ").unwrap();
            assert_eq!(head.header(&name.to_lowercase()).as_deref(), Some(value), "{status}");
        }
        // The connection stays usable: the next request is answered on it.
        if !body.is_empty() {
            client.read_until(|bytes| bytes.len() >= body.len());
            assert_eq!(client.text(), body);
        } else {
            client.send("GET /again HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
            assert_eq!(client.read_head().status, status, "again");
        }
    }
}

#[test]
fn a_response_of_unknown_length_is_not_buffered() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send("4\r\n{}\r\n\r\n");
        // The rest only after the first line has been seen, or never.
        connection.read_until(|_| false);
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    client.send("GET /lines HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    client.read_until(|bytes| dechunk(bytes).0 == b"{}\r\n");
}

#[test]
fn pages_posts_and_streams_that_were_not_asked_for_go_through() {
    let backend = Backend::start(|mut connection| {
        let length = connection
            .head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())
            .unwrap_or(0);
        connection.read_until(|rest| rest.len() >= length);
        let body = format!("{} got {}", connection.path(), connection.rest.len());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Own: 1\r\n", body.len());
        connection.send(format!("{head}Connection: close\r\n\r\n{body}"));
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "");
    let mut client = proxy.connect();
    client.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_head().header("x-own").as_deref(), Some("1"));
    client.read_until(|bytes| bytes == b"/page got 0");
    let mut upload = proxy.connect();
    upload.send(&format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000)));
    assert_eq!(upload.read_head().status, 200);
    upload.read_until(|bytes| bytes == b"/up got 300000");
}

#[test]
fn routes_decide_by_path_and_mode() {
    let stream = || Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let (first, second) = (stream(), stream());
    let proxy = Proxy::start_with(&format!(
        "upstreams:\n  one: {{servers: ['{}']}}\n  two: {{servers: ['{}']}}\nroutes:\n\
         \x20 - {{match: {{path_prefix: /chat}}, upstream: two, stream: always, name: chat}}\n\
         \x20 - {{match: {{path_prefix: /plain}}, upstream: one, stream: never, name: plain}}\n\
         \x20 - {{match: {{path_prefix: /ev}}, upstream: one, name: events}}\n",
        first.address, second.address
    ));
    let mut chat = proxy.connect();
    chat.send("POST /chat HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    chat.read_head();
    assert_eq!(body_of(&chat.read_to_end().unwrap()), b"data: a\n\n");
    assert_eq!(proxy.log_line()["route"], "chat");

    let mut plain = proxy.stream("/plain");
    assert_eq!(plain.read_head().header("x-accel-buffering"), None, "untouched by the plugin");
    proxy.stream("/events").read_to_end().unwrap();
    assert_eq!(proxy.log_line()["route"], "events");

    let mut lost = proxy.stream("/other");
    assert_eq!(lost.read_head().status, 404);
    assert_eq!(proxy.metric("sse_proxy_refused_total{reason=\"no_route\"}"), Some(1.0));
}

#[test]
fn a_websocket_upgrade_goes_through_both_ways() {
    let backend = Backend::start(|mut connection| {
        assert!(connection.head.to_lowercase().contains("upgrade: websocket"), "{}", connection.head);
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        let mut byte = [0];
        while let Ok(1) = connection.socket.read(&mut byte) {
            let _ = connection.socket.write_all(&[byte[0].to_ascii_uppercase()]);
        }
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    client.send(
        "GET /socket HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.read_head().status, 101);
    client.send("hello");
    client.read_until(|bytes| bytes == b"HELLO");
}

#[test]
fn head_and_http_1_0_are_answered_without_a_body_or_chunks() {
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let backend = Backend::answering(vec![stream.into()]);
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 1ms}");
    let mut client = proxy.connect();
    client.send("HEAD /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_to_end().unwrap(), b"");

    let page = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let backend = Backend::answering(vec![page.into()]);
    let proxy = Proxy::start(backend.address, "");
    let mut client = proxy.connect();
    client.send("GET /page HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_head().header("transfer-encoding"), None);
    assert_eq!(client.read_to_end().unwrap(), b"hi");
}

/// Invariant: a response reaches its client. Mechanism: a connection closed with unread bytes of the request is reset,
/// and the reset overtakes the response. Symptom: an upload that is refused early fails with a broken pipe in place of
/// its 413.
#[test]
fn an_upload_that_is_refused_early_gets_its_response() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch");
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    upload_whole_then_read(&proxy, 413, "much");
}

/// Invariant: an answer reaches its client, however much of the request is still to come. Mechanism: what the server does not
/// want was read and dropped in turns; after a full one the session was asked whether the client had gone, and took more of
/// the body for a protocol error. Symptom: 400 in place of the server's 413, for large uploads from fast clients.
#[test]
fn an_upload_whose_server_answers_and_closes_gets_its_answer() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch");
    });
    for mode in ["never", "always"] {
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        // How much can be read in one turn is up to the kernel.
        for _ in 0..20 {
            upload_whole_then_read(&proxy, 413, "much");
        }
    }
}

#[test]
fn an_upload_to_a_dead_server_gets_its_response() {
    let dead_address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(dead_address, "    stream: always");
    upload_whole_then_read(&proxy, 502, "502 cannot connect to the upstream");
}

/// A client that reads its response only after sending everything, as most do.
fn upload_whole_then_read(proxy: &Proxy, status: u16, body: &str) {
    let mut client = proxy.connect();
    client.send("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 20971520\r\n\r\n");
    let block = vec![b'x'; 1 << 16];
    for _ in 0..320 {
        client.socket.write_all(&block).expect("the whole request is taken");
    }
    assert_eq!(client.read_head().status, status);
    client.read_until(|bytes| bytes.starts_with(body.as_bytes()));
}
