//! SIGTERM: no new connections, streams ended between events, exit 0.

use std::time::{Duration, Instant};

use crate::support::{CHUNKED, DEADLINE, Request, Setup, chunk, eventually};

#[test]
fn sigterm_ends_streams_between_events_lets_requests_finish_and_exits_0() {
    let setup = Setup::new(|mut connection| {
        if connection.path() == "/page" {
            connection.wait_for_test();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            return connection.hang();
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        if connection.path() == "/half" {
            connection.send(chunk(b"data: b"));
            connection.wait_for_test();
            connection.send(chunk(b" whole\n\n"));
        }
        connection.hang();
    });
    setup.check(|case| {
        // Several of each, so that every reactor has some.
        let silent: Vec<_> = (0..4).map(|_| case.stream("/silent")).collect();
        let half: Vec<_> = (0..4).map(|_| case.stream("/half")).collect();
        silent.iter().for_each(|stream| drop(stream.until_has("data: a\n\n")));
        half.iter().for_each(|stream| drop(stream.until_has("data: b")));
        let page = case.send(Request::get("/page"));
        while !case.backend.request().starts_with("GET /page ") {}
        case.proxy.terminate();
        for stream in silent {
            assert_eq!(stream.whole(), b"data: a\n\n");
        }
        // Four streams within an event, and a page.
        case.backend.proceed(5);
        for stream in half {
            assert_eq!(stream.whole(), b"data: a\n\ndata: b whole\n\n", "the current event was finished");
        }
        assert_eq!(page.whole(), b"done");
        for _ in 0..8 {
            case.logs_end("drain");
        }
        assert_eq!(case.proxy.exited().code(), Some(0));
    });
}

#[test]
fn a_stream_that_reaches_no_boundary_is_cut_at_the_limit() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: never ending"));
        connection.hang();
    });
    setup.rest("drain: {timeout: 300ms}\n").check(|case| {
        let stream = case.stream("/events");
        stream.until_has("never ending");
        let asked = Instant::now();
        case.proxy.terminate();
        stream.broken();
        assert!(asked.elapsed() >= Duration::from_millis(300), "it had its time");
        assert_eq!(case.logs_end("drain")["clean"], false);
        assert_eq!(case.proxy.exited().code(), Some(0));
    });
}

/// Invariant: a drain ends every stream at its next boundary, or at once if boundaries cannot be seen. Mechanism: a coded stream
/// has no visible boundaries. Symptom: it delayed the shutdown by all of `drain.timeout`, and was then cut.
#[test]
fn a_coded_stream_does_not_delay_a_drain() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED.replacen("\r\n", "\r\nContent-Encoding: gzip\r\n", 1));
        connection.send(chunk(b"coded"));
        connection.hang();
    });
    setup.rest("drain: {timeout: 10m}\n").check(|case| {
        let stream = case.stream("/events");
        stream.until_has("coded");
        let asked = Instant::now();
        case.proxy.terminate();
        stream.broken();
        assert_eq!(case.logs_end("drain")["clean"], false);
        assert_eq!(case.proxy.exited().code(), Some(0));
        assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    });
}

/// Invariant: the log says how many streams a drain has cut. Mechanism: streams cut themselves when the limit passes, and were counted
/// afterwards. Symptom: `drained: nothing is left` beside access log lines with `"clean":false`.
#[test]
fn a_drain_that_cuts_streams_reports_how_many() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        connection.hang();
    });
    setup.rest("drain: {timeout: 300ms}\n").check(|case| {
        let streams: Vec<_> = (0..3).map(|_| case.stream("/events")).collect();
        streams.iter().for_each(|stream| drop(stream.until_has("data: half")));
        case.proxy.terminate();
        assert_eq!(case.proxy.exited().code(), Some(0));
        let reported = "drain limit passed: side=internal count=3: the remaining streams and requests are cut";
        eventually("the log says so", || case.proxy.stderr().contains(reported).then_some(()));
        assert!(!case.proxy.stderr().contains("drained: nothing is left"));
    });
}

#[test]
fn streams_cut_by_a_second_signal_are_logged_and_their_clients_can_tell() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        connection.hang();
    });
    setup.rest("drain: {timeout: 1h}\n").check(|case| {
        let streams: Vec<_> = (0..3).map(|_| case.stream("/events")).collect();
        streams.iter().for_each(|stream| drop(stream.until_has("data: half")));
        case.proxy.terminate();
        // Two signals at once would count as one.
        eventually("the first signal is seen", || (case.proxy.admin_status("/readyz") == Some(503)).then_some(()));
        case.proxy.terminate();
        for stream in streams {
            stream.broken();
            case.logs_end("drain");
        }
        assert_eq!(case.proxy.exited().code(), Some(0));
    });
}

/// Invariant: a shutdown loses no connection and sends clients back at different moments. Mechanism: listeners closed and all streams
/// ended at once. Symptom: connections are refused until the load balancer has noticed, and the next server gets all clients at once.
#[test]
fn a_drain_announces_itself_and_ends_streams_one_by_one_with_a_retry_field() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    setup.rest("drain: {ready_delay: 1500ms, spread: 1s, timeout: 1m, retry: 2s-4s}\n").check(|case| {
        let mut streams: Vec<_> = (0..8).map(|_| case.stream("/events")).collect();
        streams.iter().for_each(|stream| drop(stream.until_has("data: a\n\n")));
        case.proxy.terminate();
        eventually("it is not ready", || (case.proxy.admin_status("/readyz") == Some(503)).then_some(()));
        // The listeners accept, and nothing has ended.
        streams.extend((0..2).map(|_| case.stream("/events")));
        streams.iter().skip(8).for_each(|stream| drop(stream.until_has("data: a\n\n")));
        assert_eq!(case.metric("sse_proxy_streams_active", ""), Some(10.0));
        assert_eq!(case.proxy.metric("sse_proxy_draining"), Some(1.0));
        let mut delays = Vec::new();
        for stream in streams {
            let text = String::from_utf8(stream.whole()).unwrap();
            let delay = text.strip_prefix("data: a\n\nretry: ").and_then(|rest| rest.strip_suffix("\n\n"));
            delays.push(delay.and_then(|delay| delay.parse::<u32>().ok()).unwrap_or_else(|| panic!("{text:?}")));
        }
        assert!(delays.iter().all(|delay| (2000..=4000).contains(delay)), "{delays:?}");
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 1, "all the same: {delays:?}");
        let mut ends: Vec<_> = (0..10)
            .map(|_| {
                let line = case.logs_end("drain");
                assert_eq!(line["clean"], true, "{line}");
                humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap()
            })
            .collect();
        ends.sort_unstable();
        let spread = ends[9].duration_since(ends[0]).unwrap();
        assert!(spread >= Duration::from_millis(100), "all within {spread:?}");
        assert_eq!(case.proxy.exited().code(), Some(0));
    });
}

#[test]
fn a_second_signal_cuts_a_drain_short_while_listeners_still_accept() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        connection.hang();
    });
    setup.rest("drain: {ready_delay: 10m, spread: 10m, timeout: 1h}\n").check(|case| {
        let stream = case.stream("/events");
        stream.until_has("data: half");
        case.proxy.terminate();
        eventually("the first signal is seen", || (case.proxy.admin_status("/readyz") == Some(503)).then_some(()));
        case.proxy.terminate();
        stream.broken();
        case.logs_end("drain");
        assert_eq!(case.proxy.exited().code(), Some(0));
    });
}
