//! How streams start: on a reactor, or after a handoff to Pingora, with the same result.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::{Backend, CHUNKED, Client, Proxy, chunk, dechunk, eventually};

const STREAM: &str = "GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n";

/// `/page` and any POST are answered with a page, `/interim` with a 103 before, all else with a stream.
fn backend() -> Backend {
    Backend::start(|mut connection| {
        connection.read_body();
        if connection.path() == "/interim" {
            connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        if connection.path() == "/events" {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
        } else {
            let body = String::from_utf8_lossy(&connection.rest).into_owned();
            connection.answer("text/plain", &format!("page {body}"));
        }
        connection.hang();
    })
}

#[test]
fn a_request_in_pieces_is_the_same_request() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "");
    for cut in [1, 3, 4, 20, STREAM.len() - 2, STREAM.len() - 1] {
        let mut client = proxy.connect();
        let (first, second) = STREAM.split_at(cut);
        client.send(first);
        std::thread::sleep(Duration::from_millis(30));
        client.send(second);
        assert_eq!(client.read_head().status, 200, "cut at {cut}");
        client.read_until_body_has("data: a\n\n");
    }
    let head = |request: String| -> Vec<String> {
        let mut lines: Vec<_> = request.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let in_pieces = head(backend.request());
    let _client = proxy.stream("/events");
    for _ in 1..6 {
        backend.request();
    }
    assert_eq!(head(backend.request()), in_pieces, "the backend gets the same");
}

#[test]
fn other_responses_keep_the_connection_for_the_next_request() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    for (request, answer) in [
        ("GET /page HTTP/1.1\r\nHost: test\r\n\r\n", "page "),
        ("POST /chat HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody", "page body"),
        ("GET /page HTTP/1.1\r\nHost: test\r\n\r\n", "page "),
    ] {
        client.send(request);
        let head = client.read_head();
        assert_eq!(head.header("connection").as_deref(), Some("keep-alive"), "after {request:?}");
        let length = head.header("content-length").unwrap().parse().unwrap();
        let body = client.read_until(|bytes| bytes.len() >= length);
        assert_eq!(body, answer.as_bytes());
        client = Client::over(client.socket);
    }
    client.send(STREAM);
    assert_eq!(client.read_head().status, 200);
    client.read_until_body_has("data: a\n\n");
    let active = "sse_proxy_streams_active{route=\"/\"}";
    eventually("the stream is counted", || (proxy.metric(active) == Some(1.0)).then_some(()));
    let answered = "sse_proxy_requests_total{status=\"200\"}";
    eventually("all four are counted", || (proxy.metric(answered) == Some(4.0)).then_some(()));
}

#[test]
fn a_pipelined_request_is_answered_after_the_first() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    client.send(&format!("GET /page HTTP/1.1\r\nHost: test\r\n\r\n{STREAM}"));
    assert_eq!(client.read_head().status, 200);
    client.read_until(|bytes| bytes.starts_with(b"page ") && bytes.windows(4).any(|end| end == b"\r\n\r\n"));
    client.read_until(|bytes| {
        dechunk(&bytes[bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4..]).0 == b"data: a\n\n"
    });
}

#[test]
fn a_request_pipelined_behind_a_waiting_one_is_not_lost() {
    let backend = Backend::start(|mut connection| {
        connection.wait_for_test();
        connection.answer("text/plain", connection.path().to_owned().as_str());
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    client.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n");
    backend.request();
    client.send("GET /second HTTP/1.1\r\nHost: test\r\n\r\n");
    backend.proceed(2);
    client.read_until(|bytes| bytes.windows(6).any(|end| end == b"/first"));
    client.read_until(|bytes| bytes.windows(7).any(|end| end == b"/second"));
}

#[test]
fn an_interim_response_passes_before_a_page() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    client.send("GET /interim HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.read_head();
    assert_eq!((head.status, head.header("link").as_deref()), (103, Some("</a>")));
    assert_eq!(client.read_head().status, 200);
    client.read_until(|bytes| bytes == b"page ");
}

/// Invariant: every request is counted once, and so is every failure. Mechanism: after part of an interim response, the
/// connection was closed without a report. Symptom: requests were missing from the metrics and the log.
#[test]
fn a_client_that_closes_during_interim_responses_is_counted() {
    let (blocked, wait) = std::sync::mpsc::channel();
    let backend = Backend::start(move |mut connection| {
        connection.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
        while connection.socket.write_all(interim.as_bytes()).is_ok() {}
        blocked.send(()).unwrap();
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nX_Dropped: 1\r\n\r\n");
    wait.recv().unwrap();
    socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let failures = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"client_gone\"}";
    eventually("the failure is counted", || (proxy.metric(failures) == Some(1.0)).then_some(()));
    let requests = "sse_proxy_requests_total{status=\"0\"}";
    eventually("the request is counted", || (proxy.metric(requests) == Some(1.0)).then_some(()));
    // And what was left out of it.
    assert_eq!(proxy.metric("sse_proxy_dropped_fields_total"), Some(1.0));
}

#[test]
fn an_origins_date_is_kept() {
    let backend = Backend::answering(vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n".to_vec(),
    ]);
    let proxy = Proxy::start(backend.address, "");
    let head = proxy.stream("/events").read_head();
    assert_eq!(head.header("date").as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(head.header("connection").as_deref(), Some("close"));
}

#[test]
fn idle_connections_do_not_delay_a_drain() {
    let backend = backend();
    let mut proxy = Proxy::start(backend.address, "");
    let silent: Vec<TcpStream> = (0..10).map(|_| proxy.connect().socket).collect();
    let mut client = proxy.stream("/events");
    client.read_head();
    proxy.terminate();
    assert_eq!(proxy.exited().code(), Some(0));
    drop(silent);
}

#[test]
fn a_stream_that_waits_for_its_head_at_the_start_of_a_drain_gets_it() {
    let backend = Backend::start(|mut connection| {
        connection.wait_for_test();
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    let mut proxy = Proxy::start(backend.address, "");
    let mut client = proxy.stream("/events");
    backend.request();
    proxy.terminate();
    eventually("the drain", || (proxy.admin_status("/readyz") == Some(503)).then_some(()));
    backend.proceed(1);
    assert_eq!(client.read_head().status, 200);
    let (_, end) = dechunk(&client.read_to_end().unwrap());
    assert_eq!(end.as_deref(), Some(&b"\r\n"[..]), "ended in order");
    assert_eq!(proxy.log_line()["end"], "drain");
    assert_eq!(proxy.exited().code(), Some(0));
}

#[test]
fn requests_that_wait_for_their_heads_take_little_memory() {
    const REQUESTS: usize = 600;
    let backend = Backend::start(|connection| connection.hang());
    let proxy = Proxy::start(backend.address, "");
    let wait_for = |clients: &[Client]| clients.iter().for_each(|_| drop(backend.request()));
    // The first ones bring in what all of them share.
    let mut clients: Vec<Client> = (0..100).map(|_| proxy.stream("/events")).collect();
    wait_for(&clients);
    let before = proxy.memory();
    let more: Vec<Client> = (0..REQUESTS).map(|_| proxy.stream("/events")).collect();
    wait_for(&more);
    clients.extend(more);
    let each = proxy.memory().saturating_sub(before) / REQUESTS;
    assert!(each < 8 * 1024, "{each} bytes for each request");
}

#[test]
fn when_descriptors_run_out_clients_wait_until_others_close() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "");
    let mut first = proxy.stream("/events");
    first.read_until(|bytes| bytes.windows(7).any(|window| window == b"data: a"));
    let in_use = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    // Room for ten more streams and a half.
    proxy.limit(&format!("--nofile={}", in_use + 21));
    let mut clients: Vec<Client> = (0..10).map(|_| proxy.stream("/events")).collect();
    for client in &mut clients {
        assert_eq!(client.read_head().status, 200);
    }
    let mut late: Vec<Client> = (0..5).map(|_| proxy.stream("/events")).collect();
    eventually("the log reports it", || proxy.stderr().contains("cannot accept connections").then_some(()));
    drop(clients);
    for client in &mut late {
        // The first of them got its connection with the last descriptor, and nothing to reach the backend with.
        let status = client.read_head().status;
        assert!(matches!(status, 200 | 502), "{status}");
    }
    assert!(proxy.stderr().matches("cannot accept connections").count() < 20, "the log is not flooded");
}

/// Invariant: a busy listener does not starve another. Mechanism: one listener was accepted from until its queue was
/// empty. Symptom: many connections to one address blocked all others.
#[test]
fn a_busy_listener_does_not_starve_another() {
    let backend = backend();
    let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    let proxy = Proxy::start_listening("{address: 127.0.0.1:0}, {address: 127.0.0.1:0}", &config);
    let log = proxy.stderr();
    let (_, second) = log.rsplit_once("listening on ").unwrap();
    let second = second.split_whitespace().next().unwrap().parse().unwrap();
    // Whatever is opened for the first request is open from here on.
    let mut before = proxy.stream("/events");
    before.read_head();
    // The crowd gets whatever descriptors there are, and keeps them.
    let in_use = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    let pid = proxy.pid().to_string();
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(&pid).status().unwrap().success());
    };
    run("prlimit", &[&format!("--nofile={}", in_use + 100), "--pid"]);
    run("kill", &["-STOP"]);
    let mut client = proxy.stream("/events");
    let crowd: Vec<Client> = (0..300).map(|_| Client::connect(second)).collect();
    run("kill", &["-CONT"]);
    assert_eq!(client.read_head().status, 200);
    drop(crowd);
}

#[test]
fn a_client_that_closes_without_a_request_leaks_nothing() {
    let backend = backend();
    let proxy = Proxy::start(backend.address, "");
    let port = format!(":{:04X}", proxy.address.port());
    // Connections of the proxy that are open on its side: established, or closed by the client alone.
    let open = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|line| line[1].ends_with(&port) && matches!(line[3], "01" | "08")).count()
    };
    for bytes in ["", "GET", "GET / HTTP/1.1\r\nHost: test\r\n", "\0\0\0\0"] {
        let mut client = proxy.connect();
        client.socket.write_all(bytes.as_bytes()).unwrap();
        drop(client);
        eventually("the connection is closed", || (open() == 0).then_some(()));
    }
}
