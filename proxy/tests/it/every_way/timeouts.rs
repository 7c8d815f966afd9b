//! Each timeout, while other waits are in progress; and failures before the head.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{CHUNKED, Setup, UNTIL_CLOSE, chunk, eventually};

#[test]
fn a_failure_before_the_head_is_answered_with_its_cause() {
    const SMUGGLING: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: gzip\r\n\r\n";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\npayload";
    // What the backend answers, the status, what is counted, and what the body says.
    const CASES: [(&str, u16, &str, &str); 8] = [
        ("", 502, "upstream_broken", "502 "),
        ("HTTP/1.1 200", 502, "upstream_broken", "502 "),
        ("not http at all\r\n\r\n", 502, "upstream_broken", "502 "),
        (SMUGGLING, 502, "upstream_invalid", "502 "),
        (SWITCH, 502, "upstream_invalid", "502 "),
        ("large", 502, "response_head_too_large", "limits.response_header (4096 bytes)"),
        ("large interim", 502, "response_head_too_large", "limits.response_header (4096 bytes)"),
        ("hang", 504, "first_byte_timeout", "timeouts.first_byte (500ms)"),
    ];
    let setup = Setup::new(|mut connection| {
        let case: usize = connection.path().trim_start_matches('/').parse().unwrap();
        match CASES[case].0 {
            "hang" => connection.hang(),
            "large" => connection.send(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(4096))),
            "large interim" => connection.send(format!("HTTP/1.1 103 \r\nLink: {}\r\n\r\n{CHUNKED}", "x".repeat(4096))),
            answer => connection.send(answer),
        }
    });
    // Only what hangs has a short limit: the others are not in a hurry.
    let routes = "[{upstream: app, match: {path_prefix: /7}, timeouts: {first_byte: 500ms}}, {upstream: app, name: others, limits: {response_header: 4KiB}}]";
    setup.routes(routes).check(|case| {
        let mut counted = std::collections::BTreeMap::new();
        for (at, (answer, status, reason, text)) in CASES.into_iter().enumerate() {
            let exchange = case.stream(&format!("/{at}"));
            let head = exchange.head();
            assert_eq!(head.status, status, "{answer:?}");
            assert!(head.field("proxy-status").is_some_and(|value| value.contains("error=")), "{answer:?}: {head:?}");
            let body = String::from_utf8(exchange.whole()).unwrap();
            assert!(body.contains(text) && !body.contains("payload"), "{answer:?}: {body}");
            let count = counted.entry(reason).or_insert(0.0);
            *count += 1.0;
            let route = if answer == "hang" { "/7" } else { "others" };
            let labels = format!("{{route=\"{route}\",reason=\"{reason}\"}}");
            let failures = case.proxy.metric(&format!("sse_proxy_upstream_failures_total{labels}"));
            assert_eq!(failures, Some(*count), "{reason} for {answer:?}");
        }
        for route in ["/7", "others"] {
            let metric = |name: &str| case.proxy.metric(&format!("{name}{{route=\"{route}\"}}"));
            eventually("no stream is left", || (metric("sse_proxy_streams_active") == Some(0.0)).then_some(()));
            assert_eq!(metric("sse_proxy_streams_opened_total"), Some(0.0));
        }
    });
}

#[test]
fn a_silent_upstream_times_out_despite_heartbeats_and_the_client_sees_a_broken_end() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    setup.route("heartbeat: {interval: 50ms}, timeouts: {idle: 1s}").check(|case| {
        let body = case.stream("/events").broken();
        assert!(String::from_utf8(body).unwrap().starts_with("data: a\n\n:\n\n"));
        assert_eq!(case.logs_end("idle_timeout")["side"], "upstream");
    });
}

#[test]
fn comments_keep_a_stream_alive_unless_idle_ignores_comments() {
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && connection.try_send(b": here\n\n") {
            std::thread::sleep(Duration::from_millis(25));
        }
    });
    let routes = "[{upstream: app, match: {path_prefix: /keeps}, timeouts: {idle: 1500ms}}, \
                  {upstream: app, match: {path_prefix: /ignores}, timeouts: {idle: 500ms, idle_ignores_comments: true}}]";
    setup.routes(routes).check(|case| {
        let keeps = case.stream("/keeps");
        case.stream("/ignores").broken();
        case.logs_end("idle_timeout");
        keeps.whole();
        case.logs_end("upstream_end");
    });
}

#[test]
fn a_client_that_stops_reading_times_out_and_applies_backpressure() {
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        if connection.path() == "/trickle" {
            // Ten kilobytes in all: more than the client's window, less than may wait unsent, so that no write ever blocks.
            for _ in 0..100 {
                connection.send(format!("data: {}\n\n", "0123456789".repeat(9)));
                std::thread::sleep(Duration::from_millis(1));
            }
            return connection.hang();
        }
        let event = b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000);
        connection.socket.set_nonblocking(true).unwrap();
        // Writes until the proxy has closed; what it took is what was held somewhere.
        let mut taken = 0;
        let until = Instant::now() + crate::support::DEADLINE;
        while Instant::now() < until {
            match connection.socket.write(&event) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break,
            }
        }
        assert!(taken < 8 << 20, "the proxy and its kernel buffers took {taken} bytes for a client that reads none");
    });
    setup.route("heartbeat: {interval: 0}, timeouts: {write: 1s, idle: 0}").check(|case| {
        let _flooded = case.stalled_stream("/flood");
        let log = case.proxy.log_line();
        // Over HTTP/2 the kernel may be what finds it, on the connection.
        let http_2 = case.combination.protocol.is_http_2();
        assert!(log["end"] == "write_timeout" || http_2 && log["end"] == "client_gone", "{log}");
        let passed = log["bytes"].as_u64().unwrap();
        assert!(passed < 1 << 20, "{passed} bytes were read for a client that reads none");
        // A stream's window is open for a trickle even where the connection is not read: only HTTP/1 stalls here.
        if !http_2 {
            let _trickled = case.stalled_stream("/trickle");
            case.logs_end("write_timeout");
        }
    });
}

#[test]
fn lifetime_ends_a_stream_cleanly_after_the_current_event() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        connection.wait_for_test();
        connection.send(chunk(b" and half\n\ndata: too late\n\n"));
        connection.hang();
    });
    setup.route("timeouts: {lifetime: 200ms, lifetime_jitter: 0%}").check(|case| {
        let stream = case.stream("/events");
        stream.until_has("data: half");
        // It began before: its lifetime is over, whatever the machine does.
        std::thread::sleep(Duration::from_millis(250));
        case.backend.proceed(1);
        assert_eq!(String::from_utf8(stream.whole()).unwrap(), "data: half and half\n\n");
        case.logs_end("lifetime");
    });
}
