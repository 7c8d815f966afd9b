//! Heartbeats: in silence, between events, in every style, and never inside an event or a coded body.

use std::time::Duration;

use crate::support::{CHUNKED, Setup, UNTIL_CLOSE, chunk};

#[test]
fn each_style_is_written_between_events_and_leaves_them_whole() {
    let styles = [
        ("comment", "style: comment", ":\n\n"),
        ("payload", "style: comment, payload: still here", ": still here\n\n"),
        ("line", "style: comment_line", ":\n"),
        ("event", "style: event, payload: '{}'", "event: heartbeat\ndata: {}\n\n"),
        ("data", "style: data, payload: '{}'", "data: {}\n\n"),
    ];
    let routes = styles.map(|(name, style, _)| {
        format!("{{upstream: app, match: {{path_prefix: /{name}}}, heartbeat: {{interval: 30ms, {style}}}}}")
    });
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        // Silent until the client has seen heartbeats and leaves.
        connection.hang();
    });
    setup.routes(&format!("[{}]", routes.join(", "))).check(|case| {
        for (name, style, bytes) in styles {
            let stream = case.stream(&format!("/{name}"));
            // On a busy machine one may come before the event, or a third with the second.
            let body = stream.until_has(&format!("data: a\n\n{bytes}{bytes}"));
            assert_eq!(body.replace(bytes, ""), "data: a\n\n", "{style}: nothing but whole heartbeats around it");
        }
    });
}

#[test]
fn no_heartbeat_is_inserted_inside_an_event() {
    let parts: [&[u8]; 5] = [b"id: 1\n", b"data: a\r", b"\ndata: b", b"\r\n", b"\r\n"];
    let setup = Setup::new(move |mut connection| {
        connection.send(CHUNKED);
        for part in parts {
            connection.send(chunk(part));
            std::thread::sleep(Duration::from_millis(120));
        }
        connection.hang();
    });
    setup.route("heartbeat: {interval: 20ms}").check(|case| {
        let event = String::from_utf8(parts.concat()).unwrap();
        // The event whole, and a heartbeat behind it.
        let body = case.stream("/events").until_has(&format!("{event}:\n\n"));
        assert_eq!(body.replace(":\n\n", ""), event);
    });
}

#[test]
fn an_upstream_that_is_silent_from_the_start_is_kept_alive_and_its_byte_order_mark_dropped() {
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.wait_for_test();
        connection.send(b"\xEF\xBB\xBFdata: a\n\n");
    });
    setup.route("heartbeat: {interval: 30ms}").check(|case| {
        let stream = case.stream("/events");
        stream.until_has(":\n\n");
        case.backend.proceed(1);
        let body = String::from_utf8(stream.whole()).unwrap();
        assert!(body.starts_with(":\n\n"), "{body:?}");
        // A heartbeat may follow before the backend closes.
        assert_eq!(body.replace(":\n\n", ""), "data: a\n\n");
    });
}

#[test]
fn a_content_length_is_dropped_because_heartbeats_are_added() {
    let counted = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\n";
    let setup = Setup::new(move |mut connection| {
        connection.send(counted);
        connection.send(b"data: a\n\n");
        connection.wait_for_test();
        connection.send(b"data: b\n\n");
    });
    setup.route("heartbeat: {interval: 30ms}").check(|case| {
        let stream = case.stream("/events");
        assert_eq!(stream.head().field("content-length"), None);
        stream.until_has("data: a\n\n:\n\n");
        case.backend.proceed(1);
        let body = String::from_utf8(stream.whole()).unwrap();
        assert_eq!(body.replace(":\n\n", ""), "data: a\n\ndata: b\n\n", "{body:?}");
    });
}

#[test]
fn heartbeats_are_counted() {
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.hang();
    });
    setup.route("heartbeat: {interval: 30ms}").check(|case| {
        let stream = case.stream("/events");
        stream.until_has(":\n\n:\n\n:\n\n");
        assert!(case.metric("sse_proxy_heartbeats_total", "").unwrap() >= 3.0);
        drop(stream);
        assert!(case.logs_end("client_gone")["heartbeats"].as_u64().unwrap() >= 3);
    });
}
