//! The heads of pages, in both directions.

use super::{Front, PROTOCOLS, Protocol, for_each_protocol, serving};
use crate::support::{Backend, Proxy};

/// Invariant: a message is forwarded without connection fields and with unambiguous framing. Mechanism: pages went
/// through another implementation. Symptom: `Keep-Alive` was forwarded, trailers were announced and lost, and
/// `Content-Length` was repeated, which HTTP/2 clients treat as an error.
#[test]
fn page_heads_pass_without_connection_fields() {
    /// What the backend says; the body that its client gets, fields that are in its head, and texts that are not.
    type Case = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);
    let answers: [Case; 8] = [
        (
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\n\
             Proxy-Connection: x\r\nX-Own: 1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "ok",
            &["x-own: 1", "content-length: 2", "via: 1.1 sse-proxy"],
            &["keep-alive: ", "x-hop", "upgrade", "proxy-connection"],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "ok", &["content-length: 2\r"], &[]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", "ok", &[], &[]),
        (
            "HTTP/1.1 200 OK\r\nTrailer: Checksum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nChecksum: 7\r\n\r\n",
            "ok",
            &["trailer: checksum", "\r\nchecksum: 7"],
            &[],
        ),
        ("HTTP/1.1 200 OK\r\nTrailer: Checksum\r\nContent-Length: 2\r\n\r\nok", "ok", &[], &["trailer"]),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "", &[], &["content-length", "transfer-encoding"]),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok", "", &["content-length: 0"], &[]),
        ("HTTP/1.0 200 OK\r\n\r\nok", "ok", &["via: 1.0 sse-proxy"], &[]),
    ];
    let backend = Backend::start(move |mut connection| {
        let at: usize = connection.path().trim_start_matches('/').parse().unwrap();
        connection.send(answers[at].0);
    });
    for_each_protocol(|protocol| {
        for mode in ["never", "always"] {
            let front = Front::start(protocol, &format!("'{}'", backend.address), &format!("{{stream: {mode}}}"));
            for (at, (answer, body, kept, gone)) in answers.into_iter().enumerate() {
                let seen = front.curl(&format!("/{at}"), &[]);
                let case = format!("{protocol:?} {mode} {answer:?}: {seen:?}");
                assert_eq!(seen.code, 0, "{case}");
                assert_eq!(String::from_utf8_lossy(&seen.body), body, "{case}");
                assert!(kept.iter().all(|kept| seen.heads.contains(kept)), "{case}");
                assert!(!gone.iter().any(|gone| seen.heads.contains(gone)), "{case}");
                assert!(seen.heads.matches("content-length").count() <= 1, "{case}");
            }
        }
    });
}

#[test]
fn head_requests_and_not_modified_pass_without_a_body_and_keep_the_connection() {
    let backend = serving(|head| {
        let status = if head.contains("/304") { "304 Not Modified" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n").into_bytes()
    });
    for mode in ["never", "always"] {
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        let mut client = proxy.connect();
        for request in ["HEAD /", "GET /304", "HEAD /304", "HEAD /"] {
            client.send(&format!("{request} HTTP/1.1\r\nHost: test\r\n\r\n"));
            let head = client.read_head();
            assert_eq!(head.header("content-length").as_deref(), Some("5"), "{mode} {request}");
            assert_eq!(head.header("connection").as_deref(), Some("keep-alive"), "{mode} {request}");
        }
    }
}

/// Requests reach the backend complete and in one piece, whatever protocol they came over.
#[test]
fn requests_for_pages_reach_the_backend_as_http_1_1_says() {
    let backend = serving(|head| {
        let length = head.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}").into_bytes()
    });
    for protocol in PROTOCOLS {
        let front = Front::start(protocol, &format!("'{}'", backend.address), "{stream: never}");
        let echo = |arguments: &[&str]| String::from_utf8(front.curl("/p", arguments).body).unwrap().to_lowercase();
        // HTTP/2 may send a cookie in crumbs (RFC 9113 §8.2.3).
        let cookies = echo(&["--header", "Cookie: a=1", "--header", "cookie: b=2"]);
        assert!(cookies.contains("\r\ncookie: a=1; b=2\r\n"), "{protocol:?}: {cookies}");
        for method in ["POST", "PUT", "PATCH"] {
            let empty = echo(&["--request", method]);
            assert!(empty.contains("\r\ncontent-length: 0\r\n"), "{protocol:?} {method}: {empty}");
        }
        let plain = echo(&["--header", "TE: trailers", "--header", "Keep-Alive: x", "--header", "Accept-Encoding: br"]);
        for gone in ["\r\nte:", "keep-alive", "content-length", "transfer-encoding", "connection"] {
            assert!(!plain.contains(gone), "{protocol:?} {gone}: {plain}");
        }
        let version = if front.is_http2() { "2" } else { "1.1" };
        assert!(plain.contains(&format!("\r\nvia: {version} sse-proxy (")), "{protocol:?}: {plain}");
        assert!(plain.contains("\r\naccept-encoding: br\r\n"), "{protocol:?}: {plain}");
    }
    let proxy = Proxy::start(backend.address, "    stream: never");
    let mut old = proxy.connect();
    old.send("GET / HTTP/1.0\r\nConnection: close\r\n\r\n");
    old.read_head();
    let request = String::from_utf8(old.read_to_end().unwrap()).unwrap();
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: {}\r\n", backend.address)), "{request}");
}

/// Invariant: a client gets nothing that its HTTP version does not define. Mechanism: interim responses were forwarded
/// unchecked. Symptom: an HTTP/1.0 client took `103` for its response; a 103 with a length made clients wait for a
/// body.
#[test]
fn interim_responses_reach_http_1_1_clients_only() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nConnection: x\r\n\r\n";
    let answer = [interim, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"].concat();
    let backend = Backend::answering(vec![answer.into()]);
    for mode in ["never", "always"] {
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let hints = client.read_head();
        assert_eq!(hints.status, 103, "{mode}");
        assert_eq!(hints.header("link").as_deref(), Some("</a>"));
        assert_eq!((hints.header("content-length"), hints.header("connection")), (None, None), "{mode}");
        assert_eq!(client.read_head().status, 200, "{mode}");
        let mut old = proxy.connect();
        old.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
        assert_eq!(old.read_head().status, 200, "{mode}: HTTP/1.0 knows no interim responses");
    }
    // HTTP/2 knows them; Pingora's session cannot send them.
    let front = Front::start(Protocol::H2c, &format!("'{}'", backend.address), "{stream: never}");
    let seen = front.curl("/", &[]);
    assert_eq!((seen.code, seen.body.as_slice()), (0, &b"ok"[..]), "{seen:?}");
}
