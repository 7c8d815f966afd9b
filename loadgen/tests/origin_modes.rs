//! Every kind of stream and page of the built-in origin, over sockets.

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use sse_loadgen::clock::unix_us;
use sse_loadgen::sse::parser::{Item, Parser};
use sse_loadgen::wire::head::Framing;
use support::{connect, exchange, get, origin, read_head, read_response, seqs, stamps, text};

#[test]
fn a_reconnection_time_comes_before_everything_else() {
    let (_origin, address) = origin();
    for eol in ["lf", "cr", "crlf", "mixed"] {
        let response = get(address, &format!("/events?count=2&interval=1ms&retry=3s&eol={eol}"), "");
        assert!(response.body.starts_with(b"retry: 3000"), "{eol}");
        let (mut retries, mut events) = (Vec::new(), 0);
        Parser::default().feed(&response.body, |item| match item {
            Item::Retry(time) => retries.push((time, events)),
            Item::Event { .. } => events += 1,
            Item::Comment(_) => {}
        });
        assert_eq!((retries, events), (vec![(3000, 0)], 2), "{eol}");
    }
}

#[test]
fn every_line_end_split_and_framing_arrives_whole() {
    let (_origin, address) = origin();
    let mut cases = 0;
    for eol in ["lf", "cr", "crlf", "mixed"] {
        for split in ["", "&split=1", "&split=7", "&split=random"] {
            for rest in
                ["", "&bom=1&multiline=3&name=tick", "&framing=close", "&framing=length&bom=1", "&trailers=1&size=700"]
            {
                let response = get(address, &format!("/events?interval=1ms&count=5&eol={eol}{split}{rest}"), "");
                let (found, _) = stamps(&response.body);
                assert_eq!(seqs(&found), [1, 2, 3, 4, 5], "{eol}{split}{rest}");
                assert!(response.is_whole && response.head.is_event_stream, "{eol}{split}{rest}");
                assert_eq!(response.body.starts_with(b"\xEF\xBB\xBF"), rest.contains("bom"), "{eol}{split}{rest}");
                assert_eq!(response.trailers, u16::from(rest.contains("trailers")), "{eol}{split}{rest}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 80);
}

#[test]
fn framing_is_what_was_asked_for() {
    let (_origin, address) = origin();
    let framing = |query: &str| get(address, &format!("/events?count=1&interval=1ms{query}"), "").head.framing;
    assert_eq!(framing(""), Framing::Chunked);
    assert!(matches!(framing("&framing=length"), Framing::Length(bytes) if bytes > 100));
    assert_eq!(framing("&framing=close"), Framing::UntilClose);
}

#[test]
fn http_1_0_gets_a_body_that_ends_with_the_connection() {
    let (_origin, address) = origin();
    let response = exchange(address, "GET /events?count=3&interval=1ms HTTP/1.0\r\n\r\n");
    assert_eq!(response.head.framing, Framing::UntilClose);
    assert_eq!(seqs(&stamps(&response.body).0), [1, 2, 3]);
}

#[test]
fn a_last_event_id_continues_the_sequence() {
    let (_origin, address) = origin();
    let response = get(address, "/events?count=6&interval=1ms", "Last-Event-ID: 4\r\n");
    assert_eq!(seqs(&stamps(&response.body).0), [5, 6]);
    let response = get(address, "/events?count=6&interval=1ms&framing=length", "Last-Event-ID: 6\r\n");
    assert_eq!((response.body.len(), response.is_whole), (0, true));
}

#[test]
fn events_are_due_one_interval_after_another_and_never_sent_early() {
    let (_origin, address) = origin();
    let (found, _) = stamps(&get(address, "/events?count=5&interval=10ms", "").body);
    assert!(found.windows(2).all(|pair| pair[1].due_us - pair[0].due_us == 10_000), "{found:?}");
    assert!(found.iter().all(|stamp| stamp.sent_us >= stamp.due_us), "{found:?}");
}

#[test]
fn broadcast_streams_share_their_ticks_and_staggered_ones_do_not() {
    let (_origin, address) = origin();
    let phase = |schedule: &str| {
        let response = get(address, &format!("/events?count=1&interval=50ms&schedule={schedule}"), "");
        stamps(&response.body).0[0].due_us % 50_000
    };
    assert_eq!((phase("broadcast"), phase("broadcast")), (0, 0));
    assert_ne!(phase("staggered"), phase("staggered"));
}

#[test]
fn a_gate_holds_events_back_until_it_is_opened() {
    let (_origin, address) = origin();
    let mut waiting = connect(address);
    waiting.write_all(b"GET /events?gate=g&count=2&interval=5ms HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let (head, _) = read_head(&mut waiting);
    assert_eq!(head.status, 200);
    let start_us = unix_us() + 20_000;
    assert_eq!(
        exchange(address, &format!("POST /gate?name=g&at={start_us} HTTP/1.1\r\nHost: x\r\n\r\n")).head.status,
        200
    );
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        let mut buffer = [0; 1024];
        let count = waiting.read(&mut buffer).expect("events in time");
        rest.extend_from_slice(&buffer[..count]);
    }
    let late = get(address, "/events?gate=g&count=1&interval=5ms", "");
    assert!(stamps(&late.body).0[0].due_us >= start_us, "a stream that comes later does not wait");
    let first = text(&rest).split("\"due\":").nth(1).and_then(|due| due.split(',').next()?.parse::<u64>().ok());
    // Each stream has a phase of its own within the interval.
    assert!(first.is_some_and(|due| (start_us..start_us + 5_000).contains(&due)), "{start_us}: {}", text(&rest));
}

#[test]
fn comments_fill_the_silence() {
    let (_origin, address) = origin();
    let response = get(address, "/events?count=1&start_after=60ms&interval=1ms&comments=10ms", "");
    let (found, comments) = stamps(&response.body);
    assert_eq!(found.len(), 1);
    assert!(comments >= 3, "{comments} comments: {}", text(&response.body));
}

#[test]
fn an_abrupt_close_shows_as_one_in_every_framing() {
    let (_origin, address) = origin();
    for framing in ["&framing=chunked", "&framing=length&count=9", "&framing=close"] {
        let response = get(address, &format!("/events?interval=1ms&abort_after=3{framing}"), "");
        assert!(!response.is_whole, "{framing}");
        assert_eq!(seqs(&stamps(&response.body).0), [1, 2, 3], "{framing}");
        assert!(!response.body.ends_with(b"\n\n"), "{framing}: cut inside an event");
    }
}

#[test]
fn silent_and_hanging_streams_send_nothing() {
    let (_origin, address) = origin();
    for (query, expects_head) in [("silent", true), ("hang", false)] {
        let mut io = connect(address);
        io.write_all(format!("GET /events?{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("sent");
        if expects_head {
            let (head, bytes) = read_head(&mut io);
            assert_eq!(bytes.len(), head.bytes);
        }
        io.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let error = io.read(&mut [0; 16]).expect_err(query);
        assert!(
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            "{query}: {error}"
        );
    }
}

#[test]
fn a_slow_first_byte_comes_no_earlier_than_asked() {
    let (_origin, address) = origin();
    let start = std::time::Instant::now();
    get(address, "/events?first_byte_delay=80ms&count=0", "");
    assert!(start.elapsed() >= Duration::from_millis(80));
}

#[test]
fn a_flood_waits_for_a_slow_reader_and_drops_nothing() {
    let (_origin, address) = origin();
    let mut io = connect(address);
    io.write_all(b"GET /events?flood&size=4000&count=4000 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    // 16 MB: more than the kernel takes, so that the origin has to wait for what is read here.
    let response = read_response(&mut io);
    let (found, _) = stamps(&response.body);
    assert_eq!(seqs(&found), (1..=4000).collect::<Vec<_>>());
}

#[test]
fn an_unknown_parameter_is_answered_400_and_named() {
    let (_origin, address) = origin();
    let response = get(address, "/events?intervall=1s", "");
    assert_eq!(response.head.status, 400);
    assert!(text(&response.body).contains("`intervall`"), "{}", text(&response.body));
}

#[test]
fn pages_answer_like_an_existing_backend() {
    let (_origin, address) = origin();
    for (target, status, content) in [
        ("/", 200, "EventSource"),
        ("/json", 200, "\"items\""),
        ("/healthz", 200, "ok"),
        ("/status/503", 503, "Service Unavailable"),
        ("/status/204", 204, ""),
        ("/redirect", 302, "/json"),
        ("/nowhere", 404, "/large"),
        ("/large?bytes=x", 400, "bytes"),
    ] {
        let response = get(address, target, "");
        assert_eq!(response.head.status, status, "{target}");
        assert!(text(&response.body).contains(content), "{target}: {}", text(&response.body));
    }
    assert_eq!(get(address, "/large?bytes=1000000", "").body.len(), 1_000_000);
    assert!(get(address, "/redirect", "").head_text.contains("Location: /json\r\n"));
}

#[test]
fn head_answers_with_the_head_that_get_would_have() {
    // A stream was answered 404, which a proxy that asks with HEAD passes on.
    let (_origin, address) = origin();
    for target in [
        "/events?count=2&interval=1ms",
        "/events?count=2&interval=1ms&framing=length",
        "/json",
        "/status/503",
        "/events?x",
    ] {
        let mut io = connect(address);
        io.write_all(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .expect("sent");
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).expect("the connection's end in time");
        let whole = get(address, target, "Connection: close\r\n").head_text;
        assert_eq!(text(&answer), whole, "{target}");
    }
    assert_eq!(exchange(address, "PUT /events HTTP/1.1\r\nHost: x\r\n\r\n").head.status, 405);
}

#[test]
fn a_target_in_absolute_form_is_that_of_its_path() {
    // RFC 9112 §3.2.2: a server must accept it; the whole URL was looked for as a path, and not found.
    let (_origin, address) = origin();
    for (target, content) in [
        ("http://x/json", "items"),
        (&format!("HTTP://{address}/events?count=1&interval=1ms"), "\"n\":1"),
        ("https://x", "EventSource"),
        ("http://x?y=1", "EventSource"),
    ] {
        let response = get(address, target, "");
        assert_eq!(response.head.status, 200, "{target}");
        assert!(text(&response.body).contains(content), "{target}: {}", text(&response.body));
    }
}

#[test]
fn what_is_too_large_is_refused_with_the_limit() {
    let (_origin, address) = origin();
    let head = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let body = format!("{}{}", head("Content-Length: 70000000\r\n"), "x".repeat(70_000_000));
    for (request, status, limit) in [
        (head(&"x: y\r\n".repeat(100)), 431, "100 fields"),
        (head(&format!("x: {}\r\n", "y".repeat(70_000))), 431, "65536 bytes"),
        (body, 413, "67108864 bytes"),
    ] {
        let response = exchange(address, &request);
        assert_eq!(response.head.status, status, "{limit}");
        assert!(text(&response.body).contains(limit), "{}", text(&response.body));
    }
}

#[test]
fn bodies_are_echoed_whatever_their_framing() {
    let (_origin, address) = origin();
    for request in [
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        assert_eq!(text(&exchange(address, request).body), "hello");
    }
    let mut io = connect(address);
    io.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").expect("sent");
    assert_eq!(read_head(&mut io).0.status, 100);
    io.write_all(b"hello").expect("sent");
    assert_eq!(text(&read_response(&mut io).body), "hello");
}

#[test]
fn a_connection_serves_several_pages_and_then_a_posted_stream() {
    let (_origin, address) = origin();
    let mut io = connect(address);
    for _ in 0..3 {
        io.write_all(b"GET /json HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        assert_eq!(read_response(&mut io).head.status, 200);
    }
    io.write_all(b"POST /events?count=2&interval=1ms HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        .expect("sent");
    assert_eq!(stamps(&read_response(&mut io).body).0.len(), 2);
}

#[test]
fn browsers_of_other_sites_may_read_streams() {
    let (_origin, address) = origin();
    let preflight = exchange(address, "OPTIONS /events HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\n\r\n");
    assert_eq!(preflight.head.status, 204);
    for response in [preflight, get(address, "/events?count=0", "")] {
        assert!(response.head_text.contains("Access-Control-Allow-Origin: *\r\n"), "{}", response.head_text);
    }
}

#[test]
fn nonsense_is_answered_400() {
    let (_origin, address) = origin();
    assert_eq!(exchange(address, "NONSENSE\r\n\r\n").head.status, 400);
    assert_eq!(exchange(address, "POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n").head.status, 400);
}
