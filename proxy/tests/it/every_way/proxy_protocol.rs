//! The PROXY protocol: who the client is, and which connections are closed.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Case, DEADLINE, Request, Setup, UNTIL_CLOSE, eventually};

const TEXT: &[u8] = b"PROXY TCP4 203.0.113.5 198.51.100.1 4711 443\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// Version 2, over IPv6, with an extension.
fn binary() -> Vec<u8> {
    let address = |last| [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[last]].concat();
    let addresses = [&address(5)[..], &address(1), &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat();
    let extension = [4, 0, 3, b'a', b'b', b'c'];
    let length = u16::try_from(addresses.len() + extension.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x21", &length[..], &addresses, &extension].concat()
}

/// Of a health check: the connection is the proxy's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn setup(listener: &str, rest: &str) -> Setup {
    let setup = Setup::new(|mut connection| {
        connection.read_body();
        connection.send(format!("{UNTIL_CLOSE}data: a\n\n"));
    });
    setup.listener(listener).rest(rest)
}

#[test]
fn the_address_in_the_header_is_the_client() {
    for mode in ["required", "optional"] {
        let setup = setup(&format!(", proxy_protocol: {mode}"), "drain: {timeout: 2m}\n");
        setup.route("limits: {opening_rate_per_client: 4/h}").check(|case| {
            let cases = [
                (TEXT.to_vec(), "203.0.113.5", Some("203.0.113.5:4711")),
                (binary(), "2001:db8::5", Some("[2001:db8::5]:4711")),
                (UNKNOWN.to_vec(), "127.0.0.1", None),
                (LOCAL.to_vec(), "127.0.0.1", None),
            ];
            for (first, address, logged) in cases {
                case.first = first;
                // What the client claims in its request is not believed: the client is no trusted proxy.
                let forged = if logged.is_some() { "6.6.6.6" } else { address };
                for request in [Request::stream("/events"), Request::post("/page", "x")] {
                    let request = request.field("x-forwarded-for", forged);
                    assert_eq!(case.send(request.clone()).whole(), b"data: a\n\n", "{address}");
                    let head = case.backend.request().to_lowercase();
                    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                    assert_eq!(field("x-real-ip: ").as_deref(), Some(address), "{head}");
                    let hops = field("x-forwarded-for: ").unwrap();
                    let expected = if logged.is_some() { address.to_owned() } else { format!("{address}, {address}") };
                    assert_eq!(hops, expected, "{head}");
                }
                let line = case.logs_end("upstream_end");
                let client = line["client"].as_str().unwrap();
                assert!(logged.map_or(client == "127.0.0.1", |logged| client == logged), "{line}");
            }
            // Limits count it, too.
            case.first = TEXT.to_vec();
            for _ in 0..3 {
                assert_eq!(case.stream("/events").head().status, 200);
            }
            assert_eq!(case.stream("/events").head().status, 429);
            case.first = b"PROXY TCP4 203.0.113.6 198.51.100.1 4711 443\r\n".to_vec();
            assert_eq!(case.stream("/events").head().status, 200);
            if mode == "optional" {
                case.first.clear();
                assert_eq!(case.stream("/events").head().status, 200);
            }
        });
    }
}

#[test]
fn a_connection_whose_header_is_missing_malformed_or_not_allowed_is_closed() {
    let request = b"GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n";
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let cases: [(&str, &str, &[u8], &str); 8] = [
        ("required", "", request, "missing"),
        ("required", "", hello, "missing"),
        ("required", "", b"PROXY TCP4 203.0.113.5\r\nGET / HTTP/1.1\r\n", "malformed"),
        ("optional", "", b"PROXY / HTTP/1.1\r\nHost: test\r\n\r\n", "malformed"),
        ("optional", "", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x00", "malformed"),
        ("required", "trusted_proxies: [10.0.0.0/8]\n", TEXT, "untrusted"),
        ("optional", "trusted_proxies: [10.0.0.0/8]\n", LOCAL, "untrusted"),
        ("required", "client: {timeouts: {header: 300ms}}\n", b"PROXY TCP4 203.0.113.5 ", "unfinished"),
    ];
    for (mode, rest, first, reason) in cases {
        let setup = setup(&format!(", proxy_protocol: {mode}"), &format!("{rest}drain: {{timeout: 2m}}\n"));
        setup.check(|case| {
            let closed = || {
                let mut socket = TcpStream::connect(case.proxy.address).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket.write_all(first).unwrap();
                let mut answer = Vec::new();
                // With unread bytes the kernel resets it.
                let _ = socket.read_to_end(&mut answer).inspect_err(|error| {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{mode} {reason}");
                });
                assert_eq!(answer.escape_ascii().to_string(), "", "{mode} {reason}");
            };
            (0..2).for_each(|_| closed());
            let metric = format!("sse_proxy_closed_connections_total{{reason=\"proxy_protocol_{reason}\"}}");
            eventually(&metric, || (case.proxy.metric(&metric) == Some(2.0)).then_some(()));
            let line = format!("connection closed: side=downstream reason=proxy_protocol_{reason}: peer 127.0.0.1:");
            eventually(&line, || case.proxy.stderr().contains(&line).then_some(()));
            assert_eq!(case.proxy.stderr().matches(&line).count(), 1, "one line in an interval");
        });
    }
}

/// Invariant: a reload changes what connections of a listener begin with, and who may send the header, and leaves open ones alone.
/// Mechanism: the listener's socket stays, and whoever accepts from it was given the former settings. Symptom: headers are
/// refused as malformed requests until a restart, or a proxy that is no longer trusted names clients.
#[test]
fn a_reload_changes_whether_a_header_is_expected_and_from_whom() {
    let setup = Setup::new(|mut connection| {
        connection.send(format!("{UNTIL_CLOSE}data: a\n\n"));
        if connection.path() == "/held" {
            connection.wait_for_test();
        }
    });
    let setup = setup.listener(", proxy_protocol: off").rest("trusted_proxies: [127.0.0.1]\ndrain: {timeout: 2m}\n");
    setup.check(|case| {
        let held = case.stream("/held");
        held.until_has("data: a\n\n");
        case.backend.request();
        let client_is = |case: &Case, address: &str| {
            assert_eq!(case.stream("/events").whole(), b"data: a\n\n", "{address}");
            let head = case.backend.request().to_lowercase();
            assert!(head.contains(&format!("\r\nx-real-ip: {address}\r\n")), "{address}: {head}");
        };
        let closed = |case: &Case, reason: &str| {
            let mut socket = TcpStream::connect(case.proxy.address).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.write_all(if case.first.is_empty() { b"GET / HTTP/1.1\r\n\r\n" } else { &case.first }).unwrap();
            let answer = socket.read(&mut [0]).or_else(|error| match error.kind() {
                std::io::ErrorKind::ConnectionReset => Ok(0),
                _ => Err(error),
            });
            assert_eq!(answer.unwrap(), 0, "{reason}");
            let metric = format!("sse_proxy_closed_connections_total{{reason=\"proxy_protocol_{reason}\"}}");
            eventually(&metric, || (case.proxy.metric(&metric) == Some(1.0)).then_some(()));
        };
        client_is(case, "127.0.0.1");

        case.proxy.edit("proxy_protocol: off", "proxy_protocol: required");
        let changes = case.proxy.reload();
        let changed = format!("reloaded\nlisten: changed {} to http", case.proxy.address);
        assert!(changes.starts_with(&changed) && changes.ends_with(", PROXY protocol required\n"), "{changes}");
        closed(case, "missing");
        case.first = TEXT.to_vec();
        client_is(case, "203.0.113.5");

        // Something else: the header is still expected.
        case.proxy.edit("drain: {timeout: 2m}", "drain: {timeout: 3m}");
        case.proxy.reload();
        client_is(case, "203.0.113.5");

        case.proxy.edit("trusted_proxies: [127.0.0.1]", "trusted_proxies: [10.0.0.0/8]");
        assert_eq!(case.proxy.reload(), "reloaded\ntrusted_proxies: changed\n");
        closed(case, "untrusted");

        case.proxy.edit("proxy_protocol: required", "proxy_protocol: off");
        case.proxy.reload();
        case.first.clear();
        client_is(case, "127.0.0.1");
        case.backend.proceed(1);
        assert_eq!(held.whole(), b"data: a\n\n", "the stream that ran through it all");
    });
}

/// Without the key a header is a malformed request.
#[test]
fn a_header_is_refused_where_none_is_expected() {
    setup("", "drain: {timeout: 2m}\n").only(|way| !way.protocol.is_tls()).check(|case| {
        let mut socket = TcpStream::connect(case.proxy.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(&[TEXT, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"].concat()).unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    });
}
