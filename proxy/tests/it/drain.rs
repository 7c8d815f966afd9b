//! SIGTERM: no new connections, streams ended between events, exit 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Backend, CHUNKED, Proxy, chunk, contains, dechunk, eventually};

fn trickling() -> Backend {
    Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        if connection.path() == "/half" {
            connection.send(chunk(b"data: b"));
            std::thread::sleep(Duration::from_millis(700));
            connection.send(chunk(b" whole\n\n"));
        }
        connection.hang();
    })
}

#[test]
fn sigterm_ends_streams_between_events_and_exits_0() {
    let backend = trickling();
    let mut proxy = Proxy::start(backend.address, "");
    let mut silent = proxy.stream("/silent");
    silent.read_head();
    silent.read_until_body_has("data: a\n\n");
    let mut half = proxy.stream("/half");
    half.read_head();
    half.read_until_body_has("data: b");
    proxy.terminate();

    let (body, end) = dechunk(&silent.read_to_end().unwrap());
    assert_eq!((body.as_slice(), end.as_deref()), (&b"data: a\n\n"[..], Some(&b"\r\n"[..])));
    let (body, end) = dechunk(&half.read_to_end().unwrap());
    assert_eq!(body, b"data: a\n\ndata: b whole\n\n", "the event under way was finished");
    assert_eq!(end.as_deref(), Some(&b"\r\n"[..]));
    for _ in 0..2 {
        assert_eq!(proxy.log_line()["end"], "drain");
    }
    assert_eq!(proxy.exited().code(), Some(0));
}

/// Invariant: a drain can be observed to its end. Mechanism: the admin listener closed with the others. Symptom: health
/// checks were refused as if the process had died, `/readyz` never reported `draining`, and no metric showed how many
/// streams were left.
#[test]
fn a_draining_proxy_reports_it_and_accepts_no_connections() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a"));
        connection.read_until(|_| false);
    });
    let mut proxy = Proxy::start_with(&format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\ndrain: {{timeout: 3s}}\n",
        backend.address
    ));
    assert_eq!(proxy.admin_page("/readyz"), (200, "ready\n".to_owned()));
    // A connection that has been kept open is answered, too.
    let mut kept = proxy.admin_client();
    let mut half = proxy.stream("/events");
    half.read_head();
    half.read_until_body_has("data: a");
    proxy.terminate();
    eventually("the drain shows", || match proxy.admin_page("/readyz") {
        (200, page) => {
            assert_eq!(page, "ready\n");
            None
        }
        page => {
            assert_eq!(page, (503, "draining\n".to_owned()));
            Some(())
        }
    });
    eventually("new connections are refused", || TcpStream::connect(proxy.address).is_err().then_some(()));
    assert_eq!(proxy.admin_page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(proxy.metric("sse_proxy_streams_active{route=\"/\"}"), Some(1.0));
    kept.send("GET /readyz HTTP/1.1\r\nHost: admin\r\n\r\n");
    assert_eq!(kept.read_head().status, 503);
    half.socket.set_nonblocking(true).unwrap();
    let open = half.socket.peek(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock, "the stream is still open");
    assert_eq!(proxy.exited().code(), Some(0));
    assert!(TcpStream::connect(proxy.admin).is_err());
}

#[test]
fn a_stream_that_reaches_no_boundary_is_cut_at_the_limit() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: never ending"));
        connection.hang();
    });
    let mut proxy = Proxy::start_with(&format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\ndrain: {{timeout: 300ms}}\n",
        backend.address
    ));
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has("never ending");
    let asked = Instant::now();
    proxy.terminate();
    let (_, end) = dechunk(&client.read_to_end().unwrap());
    assert_eq!(end, None, "the client sees a broken end");
    assert!(asked.elapsed() >= Duration::from_millis(300), "it had its time");
    let log = proxy.log_line();
    assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some("drain"), Some(false)));
    assert_eq!(proxy.exited().code(), Some(0));
}

/// Invariant: a drain does not wait for a boundary that cannot be seen. Mechanism: a coded stream has no visible
/// boundaries. Symptom: it delayed the shutdown by all of `drain.timeout`, and was then cut.
#[test]
fn a_coded_stream_does_not_delay_a_drain() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED.replacen("\r\n", "\r\nContent-Encoding: gzip\r\n", 1));
        connection.send(chunk(b"\x1f\x8b"));
        connection.hang();
    });
    let mut proxy = Proxy::start_with(&format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address));
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until(|bytes| contains(bytes, b"\x1f\x8b"));
    let asked = Instant::now();
    proxy.terminate();
    let (_, end) = dechunk(&client.read_to_end().unwrap());
    assert_eq!(end, None, "the client sees a broken end");
    assert_eq!(proxy.exited().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(15), "half of drain.timeout: {:?}", asked.elapsed());
    let log = proxy.log_line();
    assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some("drain"), Some(false)));
}

#[test]
fn a_drain_finishes_requests_in_flight() {
    let backend = Backend::start(|mut connection| {
        std::thread::sleep(Duration::from_millis(400));
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        connection.hang();
    });
    let mut proxy = Proxy::start(backend.address, "");
    let mut client = proxy.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    backend.request();
    proxy.terminate();
    assert_eq!(client.read_head().status, 200);
    client.read_until(|bytes| bytes == b"done");
    assert_eq!(proxy.exited().code(), Some(0));
}

#[test]
fn a_drain_closes_idle_connections_while_streams_continue() {
    let backend = Backend::start(|mut connection| {
        if connection.path() == "/page" {
            connection.answer("text/plain", "page");
        } else {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: half"));
        }
        connection.hang();
    });
    let mut proxy = Proxy::start(backend.address, "");
    let mut stream = proxy.stream("/events");
    stream.read_head();
    stream.read_until_body_has("data: half");
    let mut page = proxy.connect();
    page.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(page.read_head().header("connection").as_deref(), Some("keep-alive"));
    page.read_until(|bytes| bytes == b"page");
    proxy.terminate();
    assert_eq!(page.read_to_end().unwrap(), b"page", "and nothing after it");
    stream.socket.set_nonblocking(true).unwrap();
    let open = stream.socket.peek(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock, "the stream has time to end its event");
    assert_eq!(proxy.exited().code(), Some(0));
}

/// Invariant: the log says how many streams a drain has cut. Mechanism: streams cut themselves when the limit passes, and were counted
/// afterwards. Symptom: `drained: nothing is left` beside access log lines with `"clean":false`.
#[test]
fn a_drain_that_cuts_streams_reports_how_many() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: half"));
        connection.read_until(|_| false);
    });
    for driver in ["parked", "task"] {
        let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\ndrain: {{timeout: 300ms}}\n", backend.address);
        let mut proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
        let streams: Vec<_> = (0..3)
            .map(|_| {
                let mut client = proxy.stream("/events");
                client.read_head();
                client.read_until_body_has("data: half");
                client
            })
            .collect();
        proxy.terminate();
        assert_eq!(proxy.exited().code(), Some(0));
        let reported = "drain limit passed: side=internal count=3: the remaining streams and requests are cut";
        eventually(driver, || proxy.stderr().contains(reported).then_some(()));
        assert!(!proxy.stderr().contains("drained: nothing is left"));
        drop(streams);
    }
}
