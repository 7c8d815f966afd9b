//! Every upstream byte reaches the client once, in order, unchanged, and at once.

use std::time::Duration;

use crate::support::{CHUNKED, Protocol, Request, Setup, UNTIL_CLOSE, chunk, eventually};

/// No heartbeat comes into these streams.
const QUIET: &str = "heartbeat: {interval: 0}";

const EVENTS: &[u8] =
    b"\xEF\xBB\xBFid: 1\ndata: a\n\nevent: x\rdata: b\r\rdata: c\r\n\r\n: comment\n\ndata: \xC3\xA9\n\n";

#[test]
fn bodies_pass_whole_however_they_are_delimited_and_cut() {
    let setup = Setup::new(|mut connection| {
        let cut: usize = connection.path().rsplit('/').next().unwrap().parse().unwrap();
        let counted =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n", EVENTS.len());
        let in_chunks = [chunk(&EVENTS[..20]), chunk(&EVENTS[20..]), b"0\r\n\r\n".to_vec()].concat();
        let (head, wire) = match cut % 4 {
            0 => (counted.as_str(), EVENTS),
            1 => (UNTIL_CLOSE, EVENTS),
            2 => ("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", EVENTS),
            _ => (CHUNKED, in_chunks.as_slice()),
        };
        connection.send(head);
        connection.send(&wire[..cut]);
        // The first part is on its own, not merged by the kernel, once the proxy has had time to see it.
        std::thread::sleep(Duration::from_millis(2));
        connection.send(&wire[cut..]);
    });
    setup.route(QUIET).check(|case| {
        for cut in 0..16 {
            let cut = cut * 4 + cut % 4;
            let stream = case.stream(&format!("/events/{cut}"));
            assert_eq!(stream.head().field("content-length"), None);
            assert_eq!(stream.whole(), EVENTS, "cut at {cut}");
            case.logs_end("upstream_end");
        }
    });
}

#[test]
fn half_an_event_is_forwarded_before_the_rest_is_sent() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"id: 7\n"));
        connection.read_until(|_| false);
    });
    setup.route(QUIET).check(|case| assert_eq!(case.stream("/events").until_has("id: 7\n"), "id: 7\n"));
}

#[test]
fn trailers_pass() {
    let wire = [CHUNKED.as_bytes(), &chunk(b"data: a\n\n"), b"0\r\nChecksum: 7\r\n\r\n"].concat();
    // HTTP/1.0 has no place for them, and streams over HTTP/2 drop them (docs/operations.md).
    let setup = Setup::answering(vec![wire]).only(|way| matches!(way.protocol, Protocol::Http11 | Protocol::Http11Tls));
    setup.route(QUIET).check(|case| {
        let stream = case.stream("/events");
        assert_eq!(stream.whole(), b"data: a\n\n");
        assert_eq!(stream.trailers(), [("checksum".to_owned(), "7".to_owned())]);
    });
}

#[test]
fn encoded_bodies_pass_untouched_and_without_heartbeats() {
    let encoded = b"\x1f\x8b\x08\n\n\n\nnot really gzip";
    let setup = Setup::new(move |mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n");
        connection.send(encoded);
        std::thread::sleep(Duration::from_millis(200));
    });
    setup.route("heartbeat: {interval: 20ms}").check(|case| {
        let stream = case.stream("/events");
        assert_eq!(stream.head().field("content-encoding").as_deref(), Some("gzip"));
        assert_eq!(stream.whole(), encoded);
    });
}

#[test]
fn heads_are_changed_only_where_it_matters() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: keep-alive\r\n\
                Keep-Alive: timeout=5\r\nAccess-Control-Allow-Origin: *\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                Cache-Control: no-store\r\n\r\n";
    let setup = Setup::answering(vec![head.into(), b"data: a\n\n".to_vec()]);
    setup.route(QUIET).check(|case| {
        let request = Request::stream("/events?a=1&b=%20")
            .field("accept-encoding", "gzip")
            .field("last-event-id", "41")
            .field("cookie", "c=3")
            .field("traceparent", "00-a-b-01");
        let stream = case.send(request);
        let answer = stream.head();
        let got = case.backend.request().to_lowercase();
        assert!(got.starts_with("get /events?a=1&b=%20 http/1.1\r\n"), "{got}");
        for kept in ["host: test", "last-event-id: 41", "cookie: c=3", "traceparent: 00-a-b-01"] {
            assert!(got.contains(&format!("\r\n{kept}\r\n")), "{kept} in {got}");
        }
        assert!(!got.contains("accept-encoding"), "{got}");
        let proto = if case.combination.protocol.is_tls() { "https" } else { "http" };
        assert!(got.contains(&format!("\r\nx-forwarded-proto: {proto}\r\n")), "{got}");
        for (name, value) in [
            ("content-type", Some("text/event-stream; charset=utf-8")),
            ("access-control-allow-origin", Some("*")),
            ("set-cookie", Some("a=1, b=2")),
            ("cache-control", Some("no-store, no-cache, no-transform")),
            ("x-accel-buffering", Some("no")),
            ("keep-alive", None),
        ] {
            assert_eq!(answer.field(name).as_deref(), value, "{name}");
        }
    });
}

#[test]
fn a_post_streams_its_body() {
    let setup = Setup::new(|mut connection| {
        connection.read_body();
        let length = connection.rest.iter().filter(|byte| **byte == b'x').count();
        connection.send(UNTIL_CLOSE);
        connection.send(format!("data: {length} bytes\n\n"));
    });
    setup.route("stream: always, heartbeat: {interval: 0}").check(|case| {
        for length in [1, 5_000, 200_000] {
            let stream = case.send(Request::post("/v1/chat", vec![b'x'; length]));
            assert_eq!(String::from_utf8(stream.whole()).unwrap(), format!("data: {length} bytes\n\n"));
        }
    });
}

#[test]
fn a_large_burst_passes_in_order() {
    const COUNT: usize = 20_000;
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        let events: String = (0..COUNT).map(|id| format!("id: {id}\ndata: x\n\n")).collect();
        connection.send(events);
    });
    setup.route("heartbeat: {interval: 20ms}").check(|case| {
        let body = String::from_utf8(case.stream("/events").whole()).unwrap();
        let ids = body.lines().filter_map(|line| line.strip_prefix("id: "));
        assert!(ids.clone().enumerate().all(|(at, id)| id.parse() == Ok(at)), "in order, once");
        assert_eq!(ids.count(), COUNT);
        assert_eq!(case.logs_end("upstream_end")["events"], COUNT);
    });
}

#[test]
fn early_hints_reach_the_client_before_the_stream() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let setup = Setup::answering(vec![hints.into(), UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    // HTTP/1.0 knows none (RFC 9110 §15.2); the client for HTTP/2 shows none.
    setup.route(QUIET).check(|case| {
        let stream = case.stream("/events");
        let interim: Vec<u16> = stream.interim().iter().map(|answer| answer.status).collect();
        let shown = matches!(case.combination.protocol, Protocol::Http11 | Protocol::Http11Tls);
        assert_eq!(interim, if shown { &[103][..] } else { &[] });
        assert_eq!(stream.whole(), b"data: a\n\n");
    });
}

#[test]
fn streams_are_counted_while_they_run_and_logged_once_they_have_ended() {
    let setup = Setup::new(|mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.send("data: a\n\n: c\n\ndata: b\n\n");
        connection.hang();
    });
    setup.route(QUIET).check(|case| {
        let streams: Vec<_> = (0..4).map(|_| case.stream("/events?x=%22")).collect();
        for stream in &streams {
            stream.until_has("data: b\n\n");
        }
        eventually("the running streams' events", || {
            (case.metric("sse_proxy_events_total", "") == Some(8.0)).then_some(())
        });
        assert_eq!(case.metric("sse_proxy_streams_active", ""), Some(4.0));
        let address = case.backend.address;
        let of_endpoint = format!("sse_proxy_upstream_streams_active{{upstream=\"app\",address=\"{address}\"}}");
        assert_eq!(case.proxy.metric(&of_endpoint), Some(4.0));
        drop(streams);
        for _ in 0..4 {
            let log = case.logs_end("client_gone");
            assert_eq!((&log["route"], &log["method"], &log["events"]), (&"/".into(), &"GET".into(), &2.into()));
            assert_eq!((&log["path"], &log["bytes"]), (&"/events?x=%22".into(), &23.into()));
            assert_eq!(log["upstream"], case.backend.address.to_string());
            assert!(log["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{log}");
        }
        assert_eq!(case.metric("sse_proxy_streams_ended_total", "reason=\"client_gone\""), Some(4.0));
        assert_eq!(case.metric("sse_proxy_streams_active", ""), Some(0.0));
        assert_eq!(case.proxy.metric(&of_endpoint), Some(0.0));
    });
}

#[test]
fn the_time_to_the_first_event_and_the_gaps_between_events_are_measured() {
    let setup = || {
        Setup::new(|mut connection| {
            connection.send(CHUNKED);
            // A comment is no event.
            connection.send(chunk(b": hello\n\n"));
            connection.wait_for_test();
            connection.send(chunk(b"data: a\n\n"));
            connection.wait_for_test();
            std::thread::sleep(Duration::from_millis(50));
            connection.send(chunk(b"data: b\n\ndata: c\n\n: bye\n\n"));
            connection.send("0\r\n\r\n");
        })
    };
    for measured in [true, false] {
        let gaps = format!("{QUIET}, metrics: {{event_gaps: {measured}}}");
        setup().route(&gaps).check(|case| {
            let stream = case.stream("/events");
            // The stream has begun.
            stream.until_has(": hello\n\n");
            std::thread::sleep(Duration::from_millis(30));
            case.backend.proceed(1);
            stream.until_has("data: a\n\n");
            case.backend.proceed(1);
            stream.whole();
            case.logs_end("upstream_end");
            assert_eq!(case.metric("sse_proxy_time_to_first_event_seconds_count", ""), Some(1.0));
            let sum = case.metric("sse_proxy_time_to_first_event_seconds_sum", "").unwrap();
            assert!((0.02..20.0).contains(&sum), "{sum}");
            let gaps =
                |suffix: &str, labels: &str| case.metric(&format!("sse_proxy_event_gap_seconds_{suffix}"), labels);
            if !measured {
                assert_eq!(gaps("count", ""), None);
                return;
            }
            assert_eq!(gaps("count", ""), Some(2.0));
            assert!(gaps("sum", "").unwrap() >= 0.04, "{:?}", gaps("sum", ""));
            let bucket =
                |le: &str| case.proxy.metric(&format!("sse_proxy_event_gap_seconds_bucket{{le=\"{le}\",route=\"/\"}}"));
            assert_eq!(bucket("0.01"), Some(1.0), "two events came together");
            assert_eq!(bucket("+Inf"), Some(2.0));
        });
    }
}
