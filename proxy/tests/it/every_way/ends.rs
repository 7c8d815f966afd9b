//! Which side closes first, and how the other side sees it.

use std::io::Write;
use std::time::Duration;

use crate::support::{CHUNKED, End, Request, Setup, UNTIL_CLOSE, chunk, eventually};

#[test]
fn a_client_that_closes_closes_the_upstream() {
    let setup = Setup::new(|mut connection| {
        match connection.path() {
            "/before-the-head" => {}
            "/silent" => {
                connection.send(CHUNKED);
                connection.send(chunk(b"data: a\n\n"));
            }
            // The client is behind when it leaves.
            _ => {
                connection.send(UNTIL_CLOSE);
                connection.socket.set_write_timeout(Some(crate::support::DEADLINE)).unwrap();
                let events = b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000);
                while connection.socket.write_all(&events).is_ok() {}
            }
        }
        assert!(connection.closed_by_proxy(), "the upstream's connection is closed");
    });
    setup.route("heartbeat: {interval: 0}, timeouts: {write: 0, idle: 0}").check(|case| {
        let silent = case.stream("/silent");
        silent.until_has("data: a\n\n");
        drop(silent);
        case.logs_end("client_gone");

        let behind = case.stalled_stream("/flood");
        eventually("the stream runs", || (case.metric("sse_proxy_streams_active", "") == Some(1.0)).then_some(()));
        drop(behind);
        case.logs_end("client_gone");

        case.backend.request();
        case.backend.request();
        let waiting = case.stream("/before-the-head");
        case.backend.request();
        drop(waiting);
        eventually("the failure is counted", || {
            let failures = case.metric("sse_proxy_upstream_failures_total", "reason=\"client_gone\"");
            (failures == Some(1.0)).then_some(())
        });
    });
}

#[test]
fn a_broken_upstream_differs_from_a_clean_end() {
    const COUNTED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n";
    // Head, what follows, whether it is reset then, whether the client sees a clean end, and what is logged.
    const CASES: [(&str, &[u8], bool, bool, &str); 7] = [
        (CHUNKED, b"9\r\ndata: a\n\n\r\n0\r\n\r\n", false, true, "upstream_end"),
        (UNTIL_CLOSE, b"data: a\n\n", false, true, "upstream_end"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\n", false, false, "upstream_broken"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\n5\r\nda", false, false, "upstream_broken"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\nnonsense\r\n", false, false, "upstream_protocol"),
        (COUNTED, b"data: a\n\n", false, false, "upstream_broken"),
        (CHUNKED, b"9\r\ndata: a\n\n\r\n", true, false, "upstream_broken"),
    ];
    let setup = Setup::new(|mut connection| {
        let case: usize = connection.path().trim_start_matches('/').parse().unwrap();
        let (head, wire, reset, ..) = CASES[case];
        connection.send(head);
        connection.send(wire);
        if reset {
            std::thread::sleep(Duration::from_millis(50));
            connection.reset();
        }
    });
    setup.check(|case| {
        for (at, (_, wire, _, clean, reason)) in CASES.into_iter().enumerate() {
            let (body, end) = case.stream(&format!("/{at}")).end();
            // The first bytes of the half event too, over every protocol: a reset must not overtake them.
            let wanted = if wire.ends_with(b"da") { &b"data: a\n\nda"[..] } else { b"data: a\n\n" };
            let wire = wire.escape_ascii();
            assert_eq!(body, wanted, "received bytes are forwarded: {reason} for {wire}");
            assert_eq!(end == End::Clean, clean, "{reason} for {wire}: {end:?}");
            assert_eq!(case.logs_end(reason)["clean"], clean);
        }
    });
}

/// Symptom before: the client was told that the upstream broke off, and only the log said why.
#[test]
fn a_response_head_that_cannot_be_read_is_named_as_the_cause() {
    let fields = |count: usize| (0..count).map(|at| format!("x{at}: y\r\n")).collect::<String>();
    let setup = Setup::new(move |mut connection| {
        let head = match connection.path() {
            "/256-fields" => format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", fields(255)),
            "/257-fields" => format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", fields(256)),
            _ => "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
        };
        // The proxy may close the connection before all of it is sent.
        let _ = connection.socket.write_all(head.as_bytes());
    });
    setup.check(|case| {
        for (path, status) in [("/256-fields", 200), ("/257-fields", 502), ("/noise", 502)] {
            for request in [Request::stream(path), Request::get(path)] {
                let exchange = case.send(request);
                assert_eq!(exchange.head().status, status, "{path}");
                let text = String::from_utf8(exchange.whole()).unwrap();
                assert_eq!(text.contains("has more than 256 fields"), status == 502, "{path}: {text}");
            }
        }
    });
}
