//! What a client gets for a page that fails.

use super::{Front, Protocol, Seen, dead_address, for_each_protocol};
use crate::support::{Backend, Proxy, eventually};

/// Invariant: a response to HEAD has no body. Mechanism: Pingora's HTTP/2 session writes the body of an error whatever the method.
/// Symptom: in place of the 502 the client sees a stream that broke the protocol.
#[test]
fn a_head_request_that_fails_gets_a_head() {
    for_each_protocol(|protocol| {
        for mode in ["never", "always"] {
            let front = Front::start(protocol, &format!("'{}'", dead_address()), &format!("{{stream: {mode}}}"));
            let seen = front.curl("/", &["--head"]);
            assert_eq!(seen.code, 0, "{protocol:?} {mode}: {seen:?}");
            assert_eq!(seen.heads.split(' ').nth(1), Some("502"), "{protocol:?} {mode}: {seen:?}");
        }
    });
}

/// Invariant: ambiguous framing of a backend is refused in every mode of a route. Mechanism: only streams were checked.
/// Symptom: `xchunked` was forwarded.
#[test]
fn ambiguous_framing_is_a_502_that_names_the_field() {
    for (answer, says) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "`xchunked`"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "`chunked, chunked`"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "`chunked, chunked`"),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "the status 204"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "`1, 2`"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: gzip\r\n\r\n", "`gzip`"),
    ] {
        let backend = Backend::answering(vec![answer.into()]);
        for mode in ["never", "always"] {
            let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
            let mut client = proxy.stream("/secret?token=1");
            let head = client.read_head();
            assert_eq!(head.status, 502, "{mode} {answer:?}");
            assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=http_protocol_error"));
            let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
            assert!(body.contains(says), "{mode} {answer:?}: {body}");
            eventually("a line in the log", || proxy.stderr().contains(says).then_some(()));
            let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"upstream_invalid\"}";
            assert_eq!(proxy.metric(metric), Some(1.0));
        }
    }
}

/// Invariant: the client sees that a response is incomplete. Mechanism: only framing or a reset distinguishes the end
/// of a connection from the end of a body. Symptom: half a page looked complete; over HTTP/2, `CANCEL`, which some
/// clients treat as a clean end.
#[test]
fn a_page_that_its_upstream_cuts_is_an_error_for_the_client() {
    let answers = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
    ];
    let backend = Backend::start(move |mut connection| {
        let at: usize = connection.path()[1..].parse().unwrap();
        connection.send(answers[at]);
    });
    for_each_protocol(|protocol| {
        let front = Front::start(protocol, &format!("'{}'", backend.address), "{stream: never}");
        for (at, answer) in answers.iter().enumerate() {
            for arguments in [&[][..], &["--http1.0"]] {
                if front.is_http2() && !arguments.is_empty() {
                    continue;
                }
                let seen = front.curl(&format!("/{at}"), arguments);
                assert_ne!(seen.code, 0, "{protocol:?} {arguments:?} {answer:?}: {seen:?}");
                if front.is_http2() {
                    assert!(seen.stderr.contains("INTERNAL_ERROR"), "{seen:?}");
                    assert_eq!(String::from_utf8_lossy(&seen.body), "part", "{seen:?}");
                }
            }
        }
    });
}

/// Invariant: the proxy's own errors differ from a backend's. Mechanism: each kind was written separately. Symptom: no
/// `Proxy-Status`, no `Content-Type`, and `Server: Pingora`.
#[test]
fn the_proxys_own_errors_have_one_form() {
    let silent = Backend::start(|connection| connection.hang());
    let closing = Backend::answering(vec![Vec::new()]);
    let secure = Front::start(Protocol::Tls, &format!("'{}'", closing.address), "{stream: never}");
    let untrusted = format!("https://localhost:{}", secure.proxy.address.port());
    let large = Backend::start(|mut connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(64 * 1024)));
        connection.hang();
    });
    let cases: [(String, u16, &str, &str); 6] = [
        (format!("'{}'", dead_address()), 502, "connection_refused", "cannot connect to the upstream"),
        (format!("'{}'", silent.address), 504, "http_response_timeout", "timeouts.first_byte"),
        (format!("'{}'", closing.address), 502, "connection_terminated", "broke off"),
        (format!("'{untrusted}'"), 502, "tls_certificate_error", "certificate cannot be verified"),
        ("'no-such-name.invalid:80'".to_owned(), 502, "destination_unavailable", "no server to connect to"),
        (format!("'{}'", large.address), 502, "http_response_header_section_size", "limits.response_header (65536"),
    ];
    let mut config = "upstreams:\n".to_owned();
    let mut routes = "routes:\n".to_owned();
    for (at, (servers, ..)) in cases.iter().enumerate() {
        config += &format!("  app{at}: {{servers: [{servers}]}}\n");
        // Only what hangs has a short limit: the others are not in a hurry.
        let limits = if at == 1 { "timeouts: {first_byte: 300ms}" } else { "" };
        for mode in ["never", "always"] {
            routes +=
                &format!("  - {{match: {{path_prefix: /{at}/{mode}}}, upstream: app{at}, stream: {mode}, {limits}}}\n");
        }
    }
    for_each_protocol(|protocol| {
        let front = Front::start_with(protocol, &format!("{config}{routes}"));
        for (at, (_, status, error, says)) in cases.iter().enumerate() {
            for mode in ["never", "always"] {
                check_error(&front.curl(&format!("/{at}/{mode}"), &[]), *status, error, says);
            }
        }
        check_error(&front.curl("/p", &[]), 404, "destination_not_found", "no route");
    });
}

fn check_error(seen: &Seen, status: u16, error: &str, says: &str) {
    let first = seen.heads.lines().next().unwrap_or_default();
    assert!(first.split(' ').nth(1) == Some(&status.to_string()), "{status}: {seen:?}");
    for field in [
        "content-type: text/plain; charset=utf-8",
        &format!("proxy-status: sse-proxy; error={error}"),
        "cache-control: no-store",
    ] {
        assert!(seen.heads.contains(field), "{field}: {seen:?}");
    }
    assert!(!seen.heads.contains("pingora"), "{seen:?}");
    let body = String::from_utf8_lossy(&seen.body);
    assert!(body.starts_with(&format!("{status} ")) && body.contains(says), "{body}");
}
