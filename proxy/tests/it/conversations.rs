//! Requests and responses that overlap, stop half-way, or follow each other on one connection.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Proxy, UNTIL_CLOSE, contains, eventually};

const ALWAYS: &str = "    stream: always\n    heartbeat: {interval: 0}";

#[test]
fn an_early_response_reaches_a_client_that_is_still_sending() {
    let answers: [(&str, u16, &str); 3] = [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 401, "no"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\n", 200, "data: a\n\n"),
        // It closes without an answer.
        ("", 502, "502 "),
    ];
    for (answer, status, body) in answers {
        let backend = Backend::answering(vec![answer.into()]);
        let proxy = Proxy::start(backend.address, ALWAYS);
        let mut client = proxy.connect();
        client.send("POST /chat HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nabc");
        assert_eq!(client.read_head().status, status);
        client.read_until(|bytes| contains(bytes, body.as_bytes()));
    }
}

#[test]
fn the_rest_of_an_upload_does_not_reset_an_early_response() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 413 Too Large\r\nContent-Length: 10\r\n\r\n01234");
        connection.wait_for_test();
        connection.send("56789");
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, ALWAYS);
    let mut client = proxy.connect();
    client.send("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000\r\n\r\n");
    client.socket.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let _ = client.socket.write_all(&vec![b'x'; 2_000_000]);
    assert_eq!(client.read_head().status, 413);
    client.read_until(|bytes| bytes == b"01234");
    backend.proceed(1);
    client.read_until(|bytes| bytes == b"0123456789");
}

#[test]
fn an_interim_response_does_not_end_a_blocked_upload() {
    const SIZE: usize = 20_000_000;
    for interim in ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let backend = Backend::start(move |mut connection| {
            // The upload is blocked by now; only then is the interim answer sent, and only then the rest read.
            std::thread::sleep(Duration::from_millis(150));
            connection.send(interim);
            connection.read_until(|rest| rest.len() >= SIZE);
            connection.send(UNTIL_CLOSE);
            connection.send(format!("data: {}\n\n", connection.rest.len()));
        });
        let proxy = Proxy::start(backend.address, ALWAYS);
        let mut client = proxy.connect();
        client.send(&format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
        let mut writer = client.socket.try_clone().unwrap();
        let upload = std::thread::spawn(move || writer.write_all(&vec![b'x'; SIZE]));
        let mut head = client.read_head();
        if head.status == 103 {
            head = client.read_head();
        }
        assert_eq!(head.status, 200, "after {interim:?}");
        client.read_until_body_has(&format!("data: {SIZE}"));
        upload.join().unwrap().unwrap();
    }
}

#[test]
fn pipelined_requests_wait_for_the_response() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n01234");
        connection.wait_for_test();
        connection.send("56789");
        connection.hang();
    });
    for mode in ["always", "never"] {
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        let get = "GET /a HTTP/1.1\r\nHost: test\r\nConnection: keep-alive\r\n\r\n";
        // Together, and one while the other is being answered.
        let mut together = proxy.connect();
        together.send(&get.repeat(2));
        let mut meanwhile = proxy.connect();
        meanwhile.send(get);
        for client in [&mut together, &mut meanwhile] {
            assert_eq!(client.read_head().status, 200, "{mode}");
            client.read_until(|bytes| bytes == b"01234");
        }
        meanwhile.send(get);
        // The rest of the two, and the responses to the requests behind them.
        backend.proceed(4);
        for client in [&mut together, &mut meanwhile] {
            client.read_exactly(5);
            assert_eq!(client.read_exactly(5), b"56789", "{mode}");
            assert_eq!(client.read_head().status, 200, "{mode}");
            client.read_until(|bytes| bytes == b"0123456789");
        }
    }
    let proxy = Proxy::start(backend.address, ALWAYS);
    backend.proceed(1);
    let mut tolerated = proxy.connect();
    tolerated.send("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi\r\n");
    assert_eq!(tolerated.read_head().status, 200, "RFC 9112 §2.2 tolerates a line end behind a body");
    tolerated.read_until(|bytes| bytes == b"0123456789");
}

#[test]
fn a_large_response_reaches_a_slow_reader() {
    const SIZE: usize = 3_000_000;
    let backend = Backend::start(|mut connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {SIZE}\r\n\r\n"));
        connection.send(vec![b'x'; SIZE]);
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    stream: always\n    timeouts: {write: 3s}");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    let (mut read, mut buffer) = (client.text().len(), vec![0; 64 * 1024]);
    // Longer in all than the limit, and never as long without a byte.
    let since = Instant::now();
    while read < SIZE {
        let count = client.socket.read(&mut buffer).unwrap();
        assert!(count > 0, "cut after {read} bytes");
        read += count;
        // At an even pace, whatever the kernel gives at once.
        let due = Duration::from_secs(4).mul_f64(read as f64 / SIZE as f64);
        std::thread::sleep(due.saturating_sub(since.elapsed()));
    }
    assert!(since.elapsed() > Duration::from_secs(3));
}

#[test]
fn an_upstream_with_unread_bytes_is_not_idle_while_its_client_pauses() {
    let backend = Backend::start(|mut connection| {
        connection.send(UNTIL_CLOSE);
        let events = b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000);
        while connection.socket.write_all(&events).is_ok() {}
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {idle: 1s, write: 0}");
    let mut client = Client::connect_small(proxy.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    client.read_head();
    std::thread::sleep(Duration::from_secs(2));
    let before = client.text().len();
    client.read_until(|bytes| bytes.len() > before + 300_000);
    drop(client);
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

#[test]
fn a_malformed_request_body_is_a_downstream_failure() {
    // What the client gets, if it is still there, and what is counted.
    let cases: [(&str, Option<u16>, &str); 3] = [
        ("zz\r\n", Some(400), "bad_request"),
        ("ffffffffffffffffff\r\n", Some(400), "bad_request"),
        // It breaks off within a chunk.
        ("5\r\nab", None, "client_gone"),
    ];
    for (body, status, reason) in cases {
        let backend = Backend::start(|connection| connection.hang());
        let proxy = Proxy::start(backend.address, ALWAYS);
        let mut client = proxy.connect();
        client.send(&format!("POST /chat HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        match status {
            Some(status) => assert_eq!(client.read_head().status, status, "{body:?}"),
            None => client.socket.shutdown(std::net::Shutdown::Write).unwrap(),
        }
        let failures = format!("sse_proxy_upstream_failures_total{{route=\"/\",reason=\"{reason}\"}}");
        eventually(&format!("{reason} is counted for {body:?}"), || {
            (proxy.metric(&failures) == Some(1.0)).then_some(())
        });
    }
}

#[test]
fn an_unrequested_protocol_switch_is_refused() {
    for mode in ["always", "accept", "never"] {
        let backend = Backend::answering(vec![
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\nbytes".into(),
        ]);
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        let mut client = proxy.stream("/events");
        assert_eq!(client.read_head().status, 502, "{mode}");
        let rest = client.read_to_end().unwrap();
        assert!(!contains(&rest, b"bytes"), "{mode}: what follows the switch is passed on");
    }
}

#[test]
fn requests_in_other_forms_are_routed_or_refused() {
    let backend = Backend::start(|mut connection| {
        let line = connection.head.lines().next().unwrap().to_owned();
        connection
            .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{line}", line.len()));
    });
    let proxy = Proxy::start(backend.address, "");
    let cases = [
        ("GET http://test/abs?a=1 HTTP/1.1\r\nHost: test\r\n\r\n", 200, "GET /abs?a=1 HTTP/1.1"),
        ("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", 200, "OPTIONS * HTTP/1.1"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        ("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "coding"),
        ("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 200, "POST / HTTP/1.1"),
    ];
    for (request, status, body) in cases {
        let mut client = proxy.connect();
        client.send(request);
        assert_eq!(client.read_head().status, status, "{request:?}");
        client.read_until(|bytes| String::from_utf8_lossy(bytes).contains(body));
    }
}
