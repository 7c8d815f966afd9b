//! Limits on clients before and during requests: slow heads and bodies, pipelined bytes, idle connections.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Backend, CHUNKED, Certificate, Client, Proxy, chunk, eventually};

/// A proxy with a plain and a TLS listener needs two; these are the ways to a proxy of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Reactor,
    Task,
    Tls,
}

const WAYS: [Way; 3] = [Way::Reactor, Way::Task, Way::Tls];

struct Setup {
    proxy: Proxy,
    way: Way,
    _files: Certificate,
}

impl Setup {
    /// In front of `backend`: streams under `/events`, pages elsewhere.
    fn new(way: Way, backend: &Backend, client: &str) -> Self {
        let files = Certificate::new();
        let listener = match way {
            Way::Tls => format!("{{address: 127.0.0.1:0, tls: {}}}", files.yaml()),
            _ => "{address: 127.0.0.1:0}".to_owned(),
        };
        let config = format!(
            "upstreams: {{app: {{servers: ['{}']}}}}\nclient: {client}\nthreads: 2\nroutes:\n  \
             - {{match: {{path_prefix: /events}}, stream: always}}\n  - {{match: {{path_prefix: /}}, stream: never}}\n",
            backend.address
        );
        let driver = if way == Way::Task { "task" } else { "parked" };
        Self { proxy: Proxy::start_on(driver, &[], &listener, &config), way, _files: files }
    }

    fn connect(&self) -> Client {
        if self.way == Way::Tls { self.proxy.connect_tls() } else { self.proxy.connect() }
    }
}

/// Answers pages and streams; under a path with `silent` in it never.
fn backend() -> Backend {
    Backend::start(|mut connection| {
        if connection.path().contains("silent") {
            return connection.hang();
        }
        if connection.path().starts_with("/events") {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
            return connection.hang();
        }
        if connection.head.to_lowercase().contains("transfer-encoding: chunked") {
            connection.read_until(|body| body.ends_with(b"0\r\n\r\n"));
        } else {
            connection.read_body();
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage");
    })
}

/// Invariant: a client that closes its connection releases everything that its request holds, whatever it has
/// pipelined. Mechanism: Pingora stashed a pipelined byte and then did not read from the client any more; the end of
/// the connection was not seen. Symptom: 200 of 200 connections and their upstream connections stayed open until the
/// upstream sent something, and the proxy ran out of descriptors.
#[test]
fn a_client_that_pipelines_and_closes_is_detected() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        // Warm: threads and pools have opened what they keep.
        setup.connect().send("GET /page HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        backend.request();
        let before = eventually("a stable count", || {
            let count = setup.proxy.descriptors();
            thread::sleep(Duration::from_millis(50));
            (count == setup.proxy.descriptors()).then_some(count)
        });
        let behind = [String::new(), "X".to_owned(), "GET /next HTTP/1.1\r\n".to_owned(), "x".repeat(100_000)];
        let mut clients = Vec::new();
        for path in ["/silent", "/events/silent"] {
            for behind in &behind {
                // Two with an offer of another protocol that does not count: `Connection` does not name it.
                for fields in ["", "", "", "Upgrade: websocket\r\n", "Upgrade: websocket\r\n"] {
                    let mut client = setup.connect();
                    client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
                    backend.request();
                    client.socket.set_nonblocking(true).unwrap();
                    // As much as the kernel and the proxy take.
                    let _ = client.try_send(behind);
                    clients.push(client);
                }
            }
        }
        assert!(setup.proxy.descriptors() >= before + 2 * clients.len(), "{way:?}: all are being served");
        drop(clients);
        eventually(&format!("{way:?}: every descriptor is given back"), || {
            (setup.proxy.descriptors() <= before + 2).then_some(())
        });
    }
}

/// Invariant: a client that closes its connection releases everything that its request holds. Mechanism: while the
/// upstream did not read the request, nothing was read from the client either, and so not the end of its connection.
/// Symptom: both connections stayed open until `timeouts.first_byte`, `read` or `idle`.
#[test]
fn a_client_that_closes_while_its_upload_waits_is_detected() {
    let done = Arc::new(AtomicBool::new(false));
    let released = done.clone();
    let backend = Backend::start(move |mut connection| {
        match connection.path() {
            "/early" => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"),
            "/events/early" => connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat()),
            _ => {}
        }
        // Reads nothing.
        while !done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let _release = Release(released);
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        // Once the connection that has shown that the listener is ready is gone.
        let before = eventually("a stable count", || {
            let count = setup.proxy.descriptors();
            thread::sleep(Duration::from_millis(300));
            (count == setup.proxy.descriptors()).then_some(count)
        });
        for path in ["/silent", "/early", "/events/silent", "/events/early"] {
            let mut client = setup.connect();
            client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n"));
            backend.request();
            if path.ends_with("early") {
                assert_eq!(client.read_head().status, 200, "{way:?} {path}");
            }
            // As much as the kernels and the proxy take. With TLS a client also reads when it cannot write.
            client.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            while client.try_send([b'x'; 65_536]).is_ok() {}
            let held = setup.proxy.descriptors();
            assert!(held >= before + 2, "{way:?} {path}: it is being served, with {held} descriptors, {before} before");
            socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
            let closed = Instant::now();
            drop(client);
            eventually(&format!("{way:?} {path}: every descriptor is given back"), || {
                (setup.proxy.descriptors() <= before).then_some(())
            });
            // Far from any limit or heartbeat.
            assert!(closed.elapsed() < Duration::from_secs(10), "{way:?} {path}: {:?}", closed.elapsed());
        }
    }
}

/// Sets its flag, also when a test fails.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pipelined requests are served one after the other.
#[test]
fn pipelined_requests_are_served_in_order() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        let mut client = setup.connect();
        let mut requests = String::new();
        for at in 0..20 {
            requests += &format!("POST /page/{at} HTTP/1.1\r\nHost: test\r\n");
            requests += match at % 3 {
                0 => "Content-Length: 3\r\n\r\nabc",
                1 => "Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
                _ => "Content-Length: 0\r\n\r\n\r\n",
            };
        }
        client.send(&requests);
        for at in 0..20 {
            let head = client.read_head();
            assert_eq!(head.status, 200, "{way:?} {at}: {}", head.text);
            let rest = client.read_exactly(4);
            assert_eq!(rest, b"page", "{way:?} {at}");
            assert!(backend.request().starts_with(&format!("POST /page/{at} ")), "{way:?}");
        }
        // And a stream behind them.
        client.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        client.read_until_body_has("data: a\n\n");
        assert!(backend.request().starts_with("GET /events "));
    }
}

/// Invariant: a request head takes no longer than `client.timeouts.header` in total. Mechanism: Pingora limits each
/// read. Symptom: a byte every few seconds kept connections of 25 to 46 KiB open without a limit.
#[test]
fn a_slow_head_is_answered_with_408() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {header: 1s}}");
        let mut first = setup.connect();
        let mut second = setup.connect();
        second.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(second.read_head().status, 200);
        second.read_exactly(4);
        backend.request();
        for client in [&mut first, &mut second] {
            let since = Instant::now();
            let mut sent = 0;
            // Until the proxy has had enough: then sending fails, or the answer is there.
            for byte in "GET /page HTTP/1.1\r\nHost: test\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                .bytes()
                .chain(std::iter::repeat_n(b'a', 1000))
            {
                if client.try_send([byte]).is_err() || since.elapsed() > Duration::from_millis(1400) {
                    break;
                }
                sent += 1;
                thread::sleep(Duration::from_millis(20));
            }
            assert!(sent > 2, "{way:?}: {sent} bytes");
            assert_eq!(client.read_head().status, 408, "{way:?}");
            client.read_to_end().unwrap();
        }
        assert_eq!(setup.proxy.metric("sse_proxy_refused_total{reason=\"head_timeout\"}"), Some(2.0), "{way:?}");
    }
}

/// Invariant: `client.timeouts.header` limits every listener. Mechanism: Pingora's listener does TLS handshakes within a fixed
/// minute. Symptom: connections that send nothing to a TLS listener stayed open for 60 s, whatever was configured.
#[test]
fn a_slow_tls_handshake_is_closed() {
    let backend = backend();
    let setup = Setup::new(Way::Tls, &backend, "{timeouts: {header: 400ms}}");
    // Nothing, and the start of a handshake record.
    for (at, sent) in [&b""[..], b"\x16\x03\x01\x02\x00\x01"].into_iter().enumerate() {
        let mut client = setup.proxy.connect();
        client.try_send(sent).unwrap();
        let since = Instant::now();
        client.read_to_end().expect("the proxy closes the connection");
        assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
        let metric = "sse_proxy_closed_connections_total{reason=\"tls_slow\"}";
        eventually("the connection is counted", || (setup.proxy.metric(metric) == Some(at as f64 + 1.0)).then_some(()));
    }
    let mut other = setup.proxy.connect();
    other.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let _ = other.read_to_end();
    eventually("a line in the log", || {
        setup.proxy.stderr().contains("TLS handshake failed: side=downstream").then_some(())
    });
    let mut client = setup.connect();
    client.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
}

#[test]
fn a_slow_body_is_answered_with_408() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {body: 300ms}}");
        for path in ["/page", "/events/silent"] {
            for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc"] {
                let mut client = setup.connect();
                client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\n{framing}"));
                assert_eq!(client.read_head().status, 408, "{way:?} {path} {framing}");
            }
        }
    }
}

/// Invariant: every server on the path parses a chunked body in the same way. Symptom: a bare line feed in an extension
/// and an empty size line passed.
#[test]
fn a_malformed_chunk_is_answered_with_400_and_not_forwarded() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        for path in ["/page", "/events/silent"] {
            for body in ["5;a\nb\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "x\r\n"] {
                let mut client = setup.connect();
                client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
                let head = client.read_head();
                assert_eq!(head.status, 400, "{way:?} {path} {body:?}: {}", head.text);
            }
        }
    }
}

#[test]
fn a_connection_without_a_request_is_closed_after_its_limit() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {header: 400ms, keepalive: 700ms}}");
        let since = Instant::now();
        let (mut silent, mut kept) = (setup.connect(), setup.connect());
        kept.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(kept.read_head().status, 200);
        kept.read_exactly(4);
        // An empty line is no request.
        kept.send("\r\n");
        if way == Way::Tls {
            silent.handshake();
        }
        assert_eq!(silent.read_to_end().unwrap(), b"", "{way:?}");
        assert!(since.elapsed() >= Duration::from_millis(400), "{way:?}: {:?}", since.elapsed());
        assert_eq!(kept.read_to_end().unwrap(), b"", "{way:?}");
        assert!(since.elapsed() >= Duration::from_millis(700), "{way:?}: {:?}", since.elapsed());
    }
}

/// Invariant: a client's fields decide on keep-alive (RFC 9112 §9.3). Mechanism: keep-alive was set for every request,
/// after the session had decided. Symptom: HTTP/1.0 clients waited for an end that did not come.
#[test]
fn http_1_0_connections_are_kept_on_request_only() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        for (request, kept) in [
            ("GET /page HTTP/1.0\r\n\r\n", false),
            ("GET /page HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
            ("GET /page HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", false),
            ("GET /page HTTP/1.1\r\nHost: test\r\n\r\n", true),
        ] {
            let mut client = setup.connect();
            client.send(request);
            assert_eq!(client.read_head().status, 200, "{way:?} {request}");
            client.read_exactly(4);
            if kept {
                client.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
                assert_eq!(client.read_head().status, 200, "{way:?} {request}");
            } else {
                assert_eq!(client.read_to_end().unwrap(), b"", "{way:?} {request}");
            }
        }
    }
}

/// A client that is still sending when it is refused can read why.
#[test]
fn a_refused_client_that_keeps_sending_reads_the_response() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        let mut client = setup.connect();
        client
            .send("POST /page HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..20 {
            if client.try_send([b'x'; 10_000]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let head = client.read_head();
        assert_eq!(head.status, 400, "{way:?}");
        let _ = client.socket.flush();
    }
}

/// Invariant: the admin listener responds whatever clients do. Mechanism: clients could use every descriptor. Symptom:
/// at the limit, the admin listener was unreachable for as long as the clients stayed, and longer.
#[test]
fn clients_cannot_take_the_last_descriptors() {
    let backend = backend();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    // Accepts, and says nothing to a TLS handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (plain, secure) = (backend.address.to_string(), format!("https://{}", silent.local_addr().unwrap()));
    // The driver, whether clients speak TLS, what they ask for, and the server.
    for (driver, tls, fields, server) in [
        ("parked", false, "", &plain),
        ("parked", true, "", &plain),
        ("task", false, "", &plain),
        ("parked", false, upgrade, &plain),
        ("parked", false, "", &secure),
        ("parked", false, upgrade, &secure),
    ] {
        let files = Certificate::new();
        let listener = match tls {
            true => format!("{{address: 127.0.0.1:0, tls: {}}}", files.yaml()),
            false => "{address: 127.0.0.1:0}".to_owned(),
        };
        let config =
            format!("upstreams: {{app: {{servers: ['{server}']}}}}\nthreads: 2\nroutes: [{{stream: always}}]\n");
        let proxy = Proxy::start_on(driver, &[("NOFILE", "160")], &listener, &config);
        let mut clients: Vec<Client> = Vec::new();
        let request = format!("GET /events HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        // Pingora connects for these: nobody asks before all have connected, so that none is left for the upstream.
        let asks_later = !fields.is_empty() || server == &secure;
        // Streams take two descriptors each; without one, a client waits or gets a 502.
        for _ in 0..200 {
            let mut client = proxy.connect();
            client.socket.set_nonblocking(true).unwrap();
            if !tls && !asks_later {
                let _ = client.try_send(&request);
            }
            clients.push(client);
        }
        let open = eventually("the reserve is all that is left", || {
            let open = proxy.descriptors();
            (open >= 120).then_some(open)
        });
        if asks_later {
            clients.iter_mut().for_each(|client| drop(client.try_send(&request)));
        }
        for _ in 0..5 {
            assert_eq!(proxy.admin_page("/healthz").0, 200, "with {open} of 160 open, TLS {tls} {fields} {server}");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(proxy.descriptors() < 155, "{}, TLS {tls} {fields} {server}", proxy.descriptors());
        // Once they have closed, requests are served again.
        drop(clients);
        eventually("descriptors are given back", || (proxy.descriptors() < 80).then_some(()));
        if server == &secure {
            continue;
        }
        // Connections that were still waiting to be accepted may take some first.
        eventually("requests are served again", || {
            let mut client = if tls { proxy.connect_tls() } else { proxy.connect() };
            client.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
            (client.read_head().status == 200).then_some(())
        });
    }
}

/// Invariant: what follows a request that offers to switch protocols belongs to the other protocol, or is the next request.
/// Mechanism: it was passed on before the response had decided. Symptom: a request behind a refused upgrade got 400, or
/// nothing.
#[test]
fn a_request_behind_an_offer_of_another_protocol_is_served_or_tunnelled() {
    let backend = Backend::start(|mut connection| {
        if connection.path() == "/switch" {
            connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            connection.read_until(|rest| rest.ends_with(b"\r\n\r\n"));
            let rest = connection.rest.clone();
            return connection.send(rest);
        }
        let status = if connection.path() == "/refuse" { "403 Forbidden" } else { "200 OK" };
        connection.send(format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage"));
    });
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let next = "GET /page/next HTTP/1.1\r\nHost: test\r\n\r\n";
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        for path in ["/switch", "/refuse", "/page"] {
            for at_once in [true, false] {
                let mut client = setup.connect();
                let offer =
                    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
                if at_once {
                    client.send(&[&offer, next].concat());
                } else {
                    client.send(&offer);
                    backend.request();
                    client.send(next);
                }
                let head = client.read_head();
                if path == "/switch" {
                    assert_eq!(head.status, 101, "{way:?} {}", head.text);
                    assert_eq!(String::from_utf8(client.read_exactly(next.len())).unwrap(), next, "{way:?}");
                    continue;
                }
                assert_eq!(head.status, if path == "/refuse" { 403 } else { 200 }, "{way:?} {path} {at_once}");
                assert_eq!(client.read_exactly(4), b"page", "{way:?} {path} {at_once}");
                assert_eq!(client.read_head().status, 200, "{way:?} {path} {at_once}");
                assert_eq!(client.read_exactly(4), b"page", "{way:?} {path} {at_once}");
            }
        }
        // An upgrade that fails closes the connection: in order, and the response arrives.
        let listener = if way == Way::Tls { format!(", tls: {}", setup._files.yaml()) } else { String::new() };
        let proxy = Proxy::start_on(
            if way == Way::Task { "task" } else { "parked" },
            &[],
            &format!("{{address: 127.0.0.1:0{listener}}}"),
            &format!("upstreams: {{app: {{servers: ['{dead}']}}}}\n"),
        );
        let mut client = if way == Way::Tls { proxy.connect_tls() } else { proxy.connect() };
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        // More than the proxy reads ahead.
        client.socket.set_nonblocking(true).unwrap();
        let _ = client.try_send(next.repeat(4_000));
        client.socket.set_nonblocking(false).unwrap();
        let head = client.read_head();
        assert_eq!(head.status, 502, "{way:?} {}", head.text);
        assert_eq!(head.header("connection").as_deref(), Some("close"), "{way:?}");
        client.read_to_end().expect("an end in order");
    }
}

/// Invariant: a client that is still sending reads its response, and is disconnected after five seconds. Mechanism: the rest
/// of a request was read by its session, and then by its connection. Symptom: a refused upload was read for ten seconds.
#[test]
fn a_client_that_sends_on_after_a_refusal_is_disconnected_after_five_seconds() {
    let answer = b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nmuch";
    thread::scope(|scope| {
        for way in WAYS {
            // An answer of the backend, one of the proxy, and one of the parser.
            for (path, fields, status) in [("/page", "", 413), ("/page", "X Y: bad\r\n", 400)] {
                scope.spawn(move || {
                    let backend = Backend::answering(vec![answer.to_vec()]);
                    let setup = Setup::new(way, &backend, "{}");
                    let mut client = setup.connect();
                    client.send(&format!(
                        "POST {path} HTTP/1.1\r\nHost: test\r\n{fields}Content-Length: 1000000\r\n\r\n"
                    ));
                    assert_eq!(client.read_head().status, status, "{way:?}");
                    let since = Instant::now();
                    while client.try_send("x").is_ok() {
                        thread::sleep(Duration::from_millis(50));
                        assert!(since.elapsed() < Duration::from_secs(8), "{way:?} {status}: still read");
                    }
                    assert!(since.elapsed() > Duration::from_secs(4), "{way:?} {status}: {:?}", since.elapsed());
                });
            }
        }
    });
}
