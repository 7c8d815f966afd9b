//! Heartbeats: in silence, between events, in every style, and never where they would do harm.

use std::time::Duration;

use crate::support::{Backend, CHUNKED, Proxy, UNTIL_CLOSE, body_of, chunk};

#[test]
fn each_style_is_written_between_events_and_leaves_them_whole() {
    let styles = [
        ("style: comment", ":\n\n"),
        ("style: comment, payload: still here", ": still here\n\n"),
        ("style: comment_line", ":\n"),
        ("style: event, payload: '{}'", "event: heartbeat\ndata: {}\n\n"),
        ("style: data, payload: '{}'", "data: {}\n\n"),
    ];
    for (style, bytes) in styles {
        let backend = Backend::start(|mut connection| {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
            // Silent until the client has seen heartbeats and leaves.
            connection.hang();
        });
        let proxy = Proxy::start(backend.address, &format!("    heartbeat: {{interval: 30ms, {style}}}"));
        let mut client = proxy.stream("/events");
        client.read_head();
        // On a busy machine one may come before the event, or a third with the second.
        let body = client.read_until_body_has(&format!("data: a\n\n{bytes}{bytes}"));
        assert_eq!(body.replace(bytes, ""), "data: a\n\n", "{style}: nothing but whole heartbeats around it");
    }
}

#[test]
fn no_heartbeat_stands_inside_an_event_however_long_the_pause() {
    let parts: [&[u8]; 5] = [b"id: 1\n", b"data: a\r", b"\ndata: b", b"\r\n", b"\r\n"];
    let backend = Backend::start(move |mut connection| {
        connection.send(CHUNKED);
        for part in parts {
            connection.send(chunk(part));
            std::thread::sleep(Duration::from_millis(120));
        }
        connection.send(b"0\r\n\r\n");
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 20ms}");
    let mut client = proxy.stream("/events");
    client.read_head();
    let body = String::from_utf8(body_of(&client.read_to_end().unwrap())).unwrap();
    let event = String::from_utf8(parts.concat()).unwrap();
    assert!(body.contains(&event), "the event is whole in {body:?}");
    let after = body.split_once(&event).unwrap().1;
    assert!(after.starts_with(":\n\n"), "and a heartbeat follows: {body:?}");
    assert_eq!(body.replace(":\n\n", ""), event);
}

#[test]
fn an_upstream_that_is_silent_from_the_start_is_kept_alive_and_its_byte_order_mark_dropped() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        std::thread::sleep(Duration::from_millis(150));
        connection.send(b"\xEF\xBB\xBFdata: a\n\n");
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 30ms}");
    let mut client = proxy.stream("/events");
    client.read_head();
    let body = String::from_utf8(body_of(&client.read_to_end().unwrap())).unwrap();
    assert!(body.starts_with(":\n\n") && body.ends_with("data: a\n\n"), "{body:?}");
    assert!(!body.contains('\u{FEFF}'), "{body:?}");
}

#[test]
fn an_http_1_0_client_gets_heartbeats_without_framing() {
    let counted = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\n";
    let backend = Backend::start(move |mut connection| {
        connection.send(counted);
        connection.send(b"data: a\n\n");
        std::thread::sleep(Duration::from_millis(150));
        connection.send(b"data: b\n\n");
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 30ms}");
    let mut client = proxy.connect();
    client.send("GET /events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(client.read_head().header("content-length"), None, "what is injected does not fit a length");
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.starts_with("data: a\n\n:\n\n") && body.ends_with("data: b\n\n"), "{body:?}");
}

#[test]
fn heartbeats_are_counted() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    heartbeat: {interval: 30ms}");
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has(":\n\n:\n\n:\n\n");
    assert!(proxy.metric("sse_proxy_heartbeats_total{route=\"/\"}").unwrap() >= 3.0);
    drop(client);
    assert!(proxy.log_line()["heartbeats"].as_u64().unwrap() >= 3);
}
