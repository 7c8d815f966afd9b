//! HTTP/1 requests, one after another, on the three ways to a proxy.

mod closing;
mod limits;

use crate::support::{Backend, CHUNKED, Certificate, Client, Proxy, chunk};

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
        // With more behind it than the proxy reads ahead, in one write: the proxy may answer before a second one.
        let offer = "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        if way == Way::Tls {
            client.handshake();
        }
        client.socket.set_nonblocking(true).unwrap();
        let _ = client.try_send([offer, &next.repeat(4_000)].concat());
        client.socket.set_nonblocking(false).unwrap();
        let head = client.read_head();
        assert_eq!(head.status, 502, "{way:?} {}", head.text);
        assert_eq!(head.header("connection").as_deref(), Some("close"), "{way:?}");
        client.read_to_end().expect("an end in order");
    }
}
