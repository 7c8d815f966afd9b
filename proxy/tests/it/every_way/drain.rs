//! SIGTERM: no new connections, streams ended between events, exit 0.

use std::time::{Duration, Instant};

use crate::support::{CHUNKED, Request, Setup, chunk};

#[test]
fn sigterm_ends_streams_between_events_lets_requests_finish_and_exits_0() {
    let setup = Setup::new(|mut connection| {
        if connection.path() == "/page" {
            std::thread::sleep(Duration::from_millis(400));
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            return connection.hang();
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        if connection.path() == "/half" {
            connection.send(chunk(b"data: b"));
            std::thread::sleep(Duration::from_millis(700));
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
