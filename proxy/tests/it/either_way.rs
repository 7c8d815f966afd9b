//! The two request paths, reactor and Pingora, send the same to the upstream and to the client.

use std::io::{Read, Write};

use crate::request_heads;
use crate::support::{Backend, Certificate, Proxy, UNTIL_CLOSE, body_of, contains, eventually};

/// Requests that were changed at random.
const CHANGED: usize = 400;

/// Responds with a stream whose one event is the request, its lines sorted.
fn echo() -> Backend {
    Backend::start(|mut connection| {
        connection.read_body();
        let body = String::from_utf8_lossy(&connection.rest).into_owned();
        // The id of the process is in parentheses.
        let without_process = |line: &str| line.split(" (").next().unwrap_or_default().to_owned();
        let lines = connection.head.lines();
        let lines = lines.map(|line| if line.starts_with("Via: ") { without_process(line) } else { line.to_owned() });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        connection.send(format!("{UNTIL_CLOSE}data: {}\ndata: {body}\n\n", lines.join("\ndata: ")));
    })
}

/// What a client gets for these bytes: the head's lines in order without the date, the body, and whether it was the end.
fn answer(proxy: &Proxy, request: &[u8]) -> (Vec<String>, Vec<u8>) {
    let mut socket = proxy.connect().socket;
    // A refusal may arrive before the whole request is sent.
    let _ = socket.write_all(request);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    while !is_whole(&bytes) {
        match socket.read(&mut buffer) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    let (head, body) = split(&bytes).unwrap_or((String::new(), &bytes));
    let chunked = head.contains("Transfer-Encoding: chunked");
    let body = if chunked { body_of(body) } else { body.to_vec() };
    let mut lines: Vec<_> = head.lines().filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect();
    lines.sort();
    (lines, body)
}

fn split(bytes: &[u8]) -> Option<(String, &[u8])> {
    let at = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&bytes[..at]).into_owned(), &bytes[at + 4..]))
}

/// Whether a response is complete by its length; others end with their connections.
fn is_whole(bytes: &[u8]) -> bool {
    let Some((head, body)) = split(bytes) else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// Requests of all kinds that end with their last byte.
fn requests() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for method in ["GET", "POST", "DELETE", "OPTIONS", "QUERY", "get", "M-SEARCH", "GE(T", ""] {
        requests.push(format!("{method} /e HTTP/1.1\r\nHost: test\r\n\r\n").into());
    }
    for target in [
        "/",
        "//",
        "//a/b",
        "/../x",
        "/%2e%2e/",
        "/a#b",
        "/a?b#c",
        "/é",
        "/a b",
        "/\"<>",
        "/{}|\\^`",
        "/\\evil",
        "\\/a",
        "*",
        "http://test/x",
        "http://other/x",
        "http:/test",
        "/http://test/",
        "?x",
        "test",
        "/?",
        "/a;b",
        "/%zz",
        "/%00",
        "/@",
        "",
    ] {
        requests.push(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").into());
    }
    for host in
        ["test", "", "a:80", "a:", ":80", "a:b", "a:b:c", "[::1]:80", "[", "]", "a..b", "a@b", "a/b", "a b", "a,b", "*"]
    {
        for version in ["1.0", "1.1"] {
            requests.push(format!("GET /e HTTP/{version}\r\nHost: {host}\r\n\r\n").into());
        }
    }
    for field in [
        "X:",
        "X : a",
        " X: a",
        "X",
        ": a",
        "X: a\0b",
        "X: a\x01",
        "X: a\x7f",
        "X: é",
        "X: a\rb",
        "X: a\nb: c",
        "X: a\r\n b",
        "X(: a",
        "X|~!#$%&'*+-.^_`: a",
        "X: a\tb",
        "Host: test",
        "Connection: close",
        "Connection: X-A\r\nX-A: 1",
        "Connection: host",
        "Connection: upgrade",
        "Connection: Cookie\r\nCookie: a=b",
        "Connection: accept\r\nAccept: text/event-stream",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Accept-Encoding: gzip",
        "Cookie: a=b\r\ncookie: c=d",
        "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: a",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: a",
        "Incremental: ?0",
        "A: 1\r\nB: 2\r\na: 3\r\nb: 4\r\nA: 5",
        "Content-Length: 0",
        "Content-Length: +0",
        "Content-Length: 00",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 0, 0",
        "Content-Length: x",
        "Content-Length:",
    ] {
        for version in ["1.0", "1.1"] {
            requests.push(format!("GET /e HTTP/{version}\r\nHost: test\r\n{field}\r\n\r\n").into());
        }
    }
    for (length, body) in
        [("3", "abc"), ("003", "abc"), ("3 ", "abc"), ("3,3", "abc"), ("3,4", "abc"), ("0x3", "abc"), ("3", "abcd")]
    {
        requests.push(format!("POST /e HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}").into());
    }
    for fields in [62, 63, 64, 65, 254, 255, 256] {
        let fields: String = (0..fields).map(|at| format!("X-{at}: a\r\n")).collect();
        requests.push(format!("GET /e HTTP/1.1\r\nHost: test\r\n{fields}\r\n").into());
    }
    // Around the size of one read.
    for size in [16_383, 16_384, 16_385, 40_000] {
        let head = "GET /e HTTP/1.1\r\nHost: test\r\nX: ";
        requests.push(format!("{head}{}\r\n\r\n", "a".repeat(size - head.len() - 4)).into());
        let head = format!("POST /e HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", size - 100);
        requests.push(format!("{head}{}", "a".repeat(size - 100)).into());
    }
    for whole in [
        "\r\nGET /e HTTP/1.1\r\nHost: test\r\n\r\n",
        "\nGET /e HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /e HTTP/1.1\nHost: test\n\n",
        "GET /e HTTP/1.1\r\nHost: test\r\n\n",
        "GET  /e HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /e HTTP/1.2\r\nHost: test\r\n\r\n",
        "GET /e\r\n\r\n",
        "GET /e HTTP/1.1\r\n\r\n",
        "GET /e HTTP/1.0\r\n\r\n",
        "GET /e HTTP/1.1\r\nHost: test\r\n\r\nGET /f HTTP/1.1\r\nHost: test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        requests.push(whole.into());
    }
    requests
}

/// One of `requests` with a few bytes replaced or put in. The ends of its lines and its lengths stay: it ends where it did.
fn changed(requests: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    const BYTES: &[u8] = b"\t :;,/\\?#%@[]()\"\x00\x01\x7f\x80\xff0aAhH1.-_";
    loop {
        let mut request = requests[random.usize(..requests.len())].clone();
        if request.len() > 1000 || contains(&request.to_ascii_lowercase(), b"content-length") {
            continue;
        }
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..request.len() - 4);
            let byte = BYTES[random.usize(..BYTES.len())];
            match request[at] {
                b'\r' | b'\n' => {}
                _ if random.bool() => request[at] = byte,
                _ => request.insert(at, byte),
            }
        }
        return request;
    }
}

/// Requests that are refused or served by the rules of one parser, whichever path they take.
#[test]
fn each_head_of_the_table_gets_its_status_on_every_path() {
    let backend = echo();
    let certificate = Certificate::new();
    let listeners = [("plain", String::new()), ("TLS", format!(", tls: {}", certificate.yaml()))];
    let cases = request_heads::cases();
    for (mode, driver, (name, listener)) in [
        ("always", "parked", &listeners[0]),
        ("always", "task", &listeners[0]),
        ("never", "parked", &listeners[0]),
        ("always", "parked", &listeners[1]),
        ("never", "parked", &listeners[1]),
    ] {
        let config = format!(
            "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{upstream: app, stream: {mode}}}]\nthreads: 2\n",
            backend.address
        );
        let proxy = Proxy::start_on(driver, &[], &format!("{{address: 127.0.0.1:0{listener}}}"), &config);
        let mut refused = 0;
        for (head, status, reason) in &cases {
            let mut client = match name {
                &"TLS" => proxy.connect_tls(),
                _ => proxy.connect(),
            };
            // A refusal may arrive before the whole request is sent.
            let _ = client.try_send(head);
            let seen = client.read_head();
            let what = format!("{reason} on {name} {driver} {mode}: {:?}", &head[..head.len().min(200)]);
            assert_eq!(seen.status, *status, "{what}");
            if *status != 200 {
                refused += 1;
                assert_eq!(
                    seen.header("proxy-status").as_deref(),
                    Some("sse-proxy; error=http_request_error"),
                    "{what}"
                );
                assert_eq!(seen.header("content-type").as_deref(), Some("text/plain; charset=utf-8"), "{what}");
                assert_eq!(seen.header("connection").as_deref(), Some("close"), "{what}");
                let body = client.read_to_end().unwrap_or_else(|error| panic!("{error}: {what}"));
                assert!(body.starts_with(status.to_string().as_bytes()), "{what}");
            } else {
                let forwarded = backend.request().to_lowercase();
                let mut names = forwarded.lines().skip(1).map(|line| line.split(':').next().unwrap_or_default());
                assert!(!names.any(|name| name.contains('_')), "{forwarded}: {what}");
                assert!(forwarded.matches("\r\ncontent-length:").count() < 2, "{forwarded}: {what}");
            }
        }
        assert!(refused > 70, "{refused}");
        let (_, page) = proxy.admin_page("/metrics");
        let counts = page.lines().filter_map(|line| line.strip_prefix("sse_proxy_refused_total{"));
        let counted: usize = counts.filter_map(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).sum();
        assert_eq!(counted, refused, "each refusal is counted: {page}");
        assert_eq!(proxy.metric("sse_proxy_dropped_fields_total"), Some(4.0));
    }
}

/// Sends each request on both paths. A difference would mean that a request is smuggled, lost or refused on one of
/// them.
#[test]
fn both_request_paths_behave_the_same() {
    let backend = echo();
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{upstream: app, stream: always}}]\n",
        backend.address
    );
    let start = |driver| Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
    let (reactors, pingora) = (start("parked"), start("task"));
    let mut requests = requests();
    let mut random = fastrand::Rng::with_seed(9112);
    let more: Vec<_> = (0..CHANGED).map(|_| changed(&requests, &mut random)).collect();
    requests.extend(more);
    for request in &requests {
        let (one, other) = (answer(&reactors, request), answer(&pingora, request));
        assert_eq!(one, other, "{:?}", String::from_utf8_lossy(request));
    }
    let counted = |proxy: &Proxy| -> Vec<String> {
        let (_, page) = proxy.admin_page("/metrics");
        let what = ["sse_proxy_requests_total{", "sse_proxy_refused_total{", "sse_proxy_streams_opened_total{"];
        let mut lines: Vec<_> = page.lines().filter(|line| what.iter().any(|what| line.starts_with(what))).collect();
        lines.sort_unstable();
        lines.into_iter().map(str::to_owned).collect()
    };
    eventually("both count the same", || (counted(&reactors) == counted(&pingora)).then_some(()));
    assert!(counted(&reactors).iter().any(|line| line.contains("opened_total")), "some were streams");
}

/// A reactor that has sent a request hands it off with the plan that it was sent by. Deciding again would take another
/// turn, and half of the servers would get all pages.
#[test]
fn a_request_takes_one_turn_whoever_answers_it() {
    let backends = ["one", "other"].map(|name| {
        Backend::start(move |mut connection| match connection.path() {
            "/stream" => connection.send(format!("{UNTIL_CLOSE}data: {name}\n\n")),
            _ => connection.answer("text/plain", name),
        })
    });
    let [one, other] = backends.each_ref().map(|backend| backend.address);
    let config = format!(
        "upstreams: {{app: {{servers: ['{one}', '{other}']}}}}\n\
         routes: [{{upstream: app, stream: always, match: {{path_prefix: /stream}}}}, \
                  {{upstream: app, stream: always, match: {{path_prefix: /page}}}}]\n"
    );
    for driver in ["parked", "task"] {
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
        for (at, path) in ["/page", "/page", "/page", "/stream", "/none", "/stream", "/stream"].iter().enumerate() {
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
            let (head, body) = answer(&proxy, request.as_bytes());
            let expected = match at {
                4 => "404 no route of this proxy matches the request\n",
                0 | 2 | 5 => "one",
                _ => "other",
            };
            let body = String::from_utf8_lossy(&body);
            assert!(body.contains(expected), "request {at} on {driver}: {body:?} and not {expected:?}, {head:?}");
        }
    }
}
