//! Request heads, each with its status and, if it is refused, the reason. The unit tests run this table through the
//! parser; `either_way` sends it to a proxy on every path.

/// One line of the table: a head, the status, the reason.
pub(crate) type Case = (String, u16, &'static str);

const LINES: &[(&str, u16, &str)] = &[
    // The request line.
    ("GET / HTTP/1.1", 200, ""),
    ("OPTIONS / HTTP/1.1", 200, ""),
    ("get / HTTP/1.1", 200, ""),
    ("M-SEARCH / HTTP/1.1", 200, ""),
    ("GET / HTTP/1.0", 200, ""),
    ("GE(T / HTTP/1.1", 400, "bad_request_line"),
    ("G\u{e9}T / HTTP/1.1", 400, "bad_request_line"),
    (" / HTTP/1.1", 400, "bad_request_line"),
    ("GET  / HTTP/1.1", 400, "bad_request_line"),
    ("GET\t/ HTTP/1.1", 400, "bad_request_line"),
    ("GET / HTTP/1.1 ", 400, "bad_request_line"),
    ("GET /  HTTP/1.1", 400, "bad_request_line"),
    ("GET /a b HTTP/1.1", 400, "bad_request_line"),
    ("GET /", 400, "bad_request_line"),
    ("GET", 400, "bad_request_line"),
    ("GET HTTP/1.1", 400, "bad_request_line"),
    ("GET / http/1.1", 400, "bad_request_line"),
    ("GET / HTTP/11", 400, "bad_request_line"),
    ("GET / HTTP/1.", 400, "bad_request_line"),
    ("GET / HTTP/1.1x", 400, "bad_request_line"),
    ("GET / HTTPS/1.1", 400, "bad_request_line"),
    ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1", 400, "bad_request_line"),
    ("GET / HTTP/1.2", 505, "unsupported_version"),
    ("GET / HTTP/0.9", 505, "unsupported_version"),
    ("GET / HTTP/3.0", 505, "unsupported_version"),
    ("TRACE / HTTP/1.1", 405, "method_not_allowed"),
    ("CONNECT test:80 HTTP/1.1", 405, "method_not_allowed"),
    ("CONNECT / HTTP/1.1", 405, "method_not_allowed"),
    // The target.
    ("GET //a/b HTTP/1.1", 200, ""),
    ("GET /../x HTTP/1.1", 200, ""),
    ("GET /%2e%2e/ HTTP/1.1", 200, ""),
    ("GET /%zz HTTP/1.1", 200, ""),
    ("GET /\u{e9} HTTP/1.1", 200, ""),
    ("GET /\"{}|\\^?{}|\\^` HTTP/1.1", 200, ""),
    ("GET /< HTTP/1.1", 400, "bad_target"),
    ("GET /` HTTP/1.1", 400, "bad_target"),
    ("GET /?\" HTTP/1.1", 400, "bad_target"),
    ("GET /?> HTTP/1.1", 400, "bad_target"),
    ("GET /a;b?c=d&e HTTP/1.1", 200, ""),
    ("GET /http://test/ HTTP/1.1", 200, ""),
    ("GET http://test/x HTTP/1.1", 200, ""),
    ("GET HTTP://test HTTP/1.1", 200, ""),
    ("GET https://test?x HTTP/1.1", 200, ""),
    ("OPTIONS * HTTP/1.1", 200, ""),
    ("GET /a#b HTTP/1.1", 400, "bad_target"),
    ("GET /a?b#c HTTP/1.1", 400, "bad_target"),
    ("GET /a\tb HTTP/1.1", 400, "bad_target"),
    ("GET /a\u{0}b HTTP/1.1", 400, "bad_target"),
    ("GET /a\u{7f}b HTTP/1.1", 400, "bad_target"),
    ("GET * HTTP/1.1", 400, "bad_target"),
    ("GET test HTTP/1.1", 400, "bad_target"),
    ("GET ?x HTTP/1.1", 400, "bad_target"),
    ("GET \\/a HTTP/1.1", 400, "bad_target"),
    ("GET test:80 HTTP/1.1", 400, "bad_target"),
    ("GET http:/test HTTP/1.1", 400, "bad_target"),
    ("GET http:///x HTTP/1.1", 400, "bad_target"),
    ("GET http://test\\@other/ HTTP/1.1", 400, "bad_target"),
    ("GET http://me@test/ HTTP/1.1", 400, "bad_target"),
    ("GET ftp://test/ HTTP/1.1", 400, "bad_target"),
    ("GET http://other/x HTTP/1.1", 400, "bad_host"),
];

const FIELDS: &[(&str, u16, &str)] = &[
    ("X:", 200, ""),
    ("X: a\tb", 200, ""),
    ("X: \u{e9}", 200, ""),
    ("X|~!#$%&'*+-.^`: a", 200, ""),
    ("X-Forwarded-For: 1.1.1.1", 200, ""),
    ("A: 1\r\nB: 2\r\na: 3", 200, ""),
    ("Keep-Alive: timeout=5", 200, ""),
    ("TE: trailers", 200, ""),
    ("X_Under: a", 200, ""),
    ("Transfer_Encoding: chunked", 200, ""),
    ("Content_Length: 7", 200, ""),
    ("_: a", 200, ""),
    ("X : a", 400, "bad_field"),
    (" X: a", 400, "bad_field"),
    ("\tX: a", 400, "bad_field"),
    ("X", 400, "bad_field"),
    (": a", 400, "bad_field"),
    ("X(: a", 400, "bad_field"),
    ("X\u{e9}: a", 400, "bad_field"),
    ("X: a\u{0}b", 400, "bad_field"),
    ("X: a\u{1}", 400, "bad_field"),
    ("X: a\u{7f}", 400, "bad_field"),
    ("X: a\rb", 400, "bad_field"),
    ("X: a\r\n b", 400, "bad_field"),
    ("X: a\r\n\tb", 400, "bad_field"),
    ("Transfer-Encoding : chunked", 400, "bad_field"),
    ("Host: test", 400, "bad_host"),
    ("host: other", 400, "bad_host"),
    ("Connection: close", 200, ""),
    ("Connection: keep-alive", 200, ""),
    ("Connection: , close ,", 200, ""),
    ("Connection:", 200, ""),
    ("Connection: X-A\r\nX-A: 1", 200, ""),
    ("Connection: cookie\r\nCookie: a=b", 200, ""),
    ("Connection: upgrade", 200, ""),
    ("Connection: a, b, c, d, e, f, g, h, i", 200, ""),
    ("Connection: a, b, c, d, e\r\nConnection: f, g, h, i, j", 400, "bad_connection"),
    ("Connection: close keep-alive", 400, "bad_connection"),
    ("Connection: \"close\"", 400, "bad_connection"),
    ("Connection: :authority", 400, "bad_connection"),
    ("Connection: \u{e9}", 400, "bad_connection"),
    ("Connection: Host", 400, "bad_connection"),
    ("Connection: x-forwarded-for", 400, "bad_connection"),
    ("Connection: close, X-Forwarded-Proto", 400, "bad_connection"),
    ("Content-Length: 0", 200, ""),
    ("Content-Length: 00", 200, ""),
    ("Content-Length: 0\r\nContent-Length: 0", 200, ""),
    ("Content-Length: 0, 0", 200, ""),
    ("Content-Length: +0", 400, "bad_content_length"),
    ("Content-Length: -0", 400, "bad_content_length"),
    ("Content-Length:", 400, "bad_content_length"),
    ("Content-Length: ,0", 400, "bad_content_length"),
    ("Content-Length: x", 400, "bad_content_length"),
    ("Content-Length: 0x0", 400, "bad_content_length"),
    ("Content-Length: 0 0", 400, "bad_content_length"),
    ("Content-Length: 0, 1", 400, "bad_content_length"),
    ("Content-Length: 0\r\nContent-Length: 1", 400, "bad_content_length"),
    ("Content-Length: 18446744073709551616", 400, "bad_content_length"),
    ("Transfer-Encoding: gzip", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding:", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: ,", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: identity", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: xchunked", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked;a=b", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked, identity", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked, chunked", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", 400, "bad_transfer_encoding"),
    ("Transfer-Encoding: gzip, chunked", 501, "unsupported_coding"),
    ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501, "unsupported_coding"),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked", 400, "two_lengths"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400, "two_lengths"),
];

/// In HTTP/1.1 and in HTTP/1.0.
const HOSTS: &[(&str, u16)] = &[
    ("test", 200),
    ("", 200),
    ("a:80", 200),
    ("a:", 200),
    ("[::1]:80", 200),
    ("[::1]", 200),
    ("a..b", 200),
    ("a_b", 200),
    ("a,b", 200),
    ("*", 200),
    ("a%20b", 200),
    ("a%2", 400),
    (":80", 400),
    ("a:b", 400),
    ("a:800000", 400),
    ("a:b:c", 400),
    ("[", 400),
    ("]", 400),
    ("[]", 400),
    ("[::1]80", 400),
    ("[::g]", 400),
    ("a@b", 400),
    ("a/b", 400),
    ("a b", 400),
    ("a\\b", 400),
    ("a?b", 400),
    ("\u{e9}", 400),
];

const WHOLE: &[(&str, u16, &str)] = &[
    ("\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", 200, ""),
    ("\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", 200, ""),
    ("GET / HTTP/1.1\nHost: test\n\n", 200, ""),
    ("GET / HTTP/1.0\r\n\r\n", 200, ""),
    ("GET http://test/ HTTP/1.0\r\n\r\n", 200, ""),
    ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    ("GET http://test/ HTTP/1.1\r\n\r\n", 400, "bad_host"),
    ("GET / HTTP/1.1\r\nX_Host: test\r\n\r\n", 400, "bad_host"),
    ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_transfer_encoding"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported_version"),
    ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}", 400, "tls_on_plain_port"),
];

/// The whole table. A head that is served has no body.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let lines = LINES.iter().map(|(line, status, reason)| (format!("{line}\r\nHost: test\r\n\r\n"), *status, *reason));
    cases.extend(lines);
    let fields = FIELDS
        .iter()
        .map(|(field, status, reason)| (format!("GET /e HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n"), *status, *reason));
    cases.extend(fields);
    for (host, status) in HOSTS {
        for version in ["1.0", "1.1"] {
            let reason = if *status == 200 { "" } else { "bad_host" };
            cases.push((format!("GET /e HTTP/{version}\r\nHost: {host}\r\n\r\n"), *status, reason));
        }
    }
    cases.extend(WHOLE.iter().map(|(head, status, reason)| ((*head).to_owned(), *status, *reason)));
    for (fields, status, reason) in [(98, 200, ""), (99, 200, ""), (100, 431, "too_many_fields")] {
        let fields: String = (0..fields).map(|at| format!("X-{at}: a\r\n")).collect();
        cases.push((format!("GET /e HTTP/1.1\r\nHost: test\r\n{fields}\r\n"), status, reason));
    }
    let sized =
        |start: &str, size: usize, end: &str| format!("{start}{}{end}", "a".repeat(size - start.len() - end.len()));
    let long_target = |size: usize| sized("GET /", size + 4, "") + " HTTP/1.1\r\nHost: test\r\n\r\n";
    cases.push((long_target(8192), 200, ""));
    cases.push((long_target(8193), 414, "target_too_long"));
    cases.push((long_target(60_000), 414, "target_too_long"));
    let long_head = |size| sized("GET /e HTTP/1.1\r\nHost: test\r\nX: ", size, "\r\n\r\n");
    for (size, status, reason) in [
        (16_383, 200, ""),
        (16_384, 200, ""),
        (16_385, 200, ""),
        (32_768, 200, ""),
        (32_769, 431, "head_too_large"),
        (70_000, 431, "head_too_large"),
    ] {
        cases.push((long_head(size), status, reason));
    }
    cases
}
