//! Pages and uploads: complete over every protocol, with bounded memory, and with broken ends that clients see.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Backend, CHUNKED, Certificate, Client, DEADLINE, Program, Proxy, UNTIL_CLOSE, chunk};
use crate::support::{contains, dechunk, eventually};

/// How a client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Tls,
    Http2,
    H2c,
}

const PROTOCOLS: [Protocol; 4] = [Protocol::Http1, Protocol::Tls, Protocol::Http2, Protocol::H2c];

/// A proxy with a listener for one protocol.
struct Front {
    proxy: Proxy,
    protocol: Protocol,
    _certificate: Option<Certificate>,
}

/// What curl says of one request.
#[derive(Debug)]
struct Seen {
    /// The exit code: 0 for a response that is complete.
    code: i32,
    heads: String,
    body: Vec<u8>,
    stderr: String,
}

impl Front {
    /// `routes` are the YAML of one route's keys, in braces.
    fn start(protocol: Protocol, servers: &str, route: &str) -> Self {
        let certificate = matches!(protocol, Protocol::Tls | Protocol::Http2).then(Certificate::new);
        let more = match (&certificate, protocol) {
            (Some(certificate), _) => format!(", tls: {}", certificate.yaml()),
            (None, Protocol::H2c) => ", h2c: true".to_owned(),
            (None, _) => String::new(),
        };
        let proxy = Proxy::start_listening(
            &format!("{{address: 127.0.0.1:0{more}}}"),
            &format!("upstreams: {{app: {{servers: [{servers}]}}}}\nroutes: [{route}]\n"),
        );
        Self { proxy, protocol, _certificate: certificate }
    }

    /// A request by curl.
    fn curl(&self, path: &str, arguments: &[&str]) -> Seen {
        let directory = tempfile::tempdir().unwrap();
        let heads = directory.path().join("heads");
        let (scheme, version) = match self.protocol {
            Protocol::Http1 => ("http", "--http1.1"),
            Protocol::Tls => ("https", "--http1.1"),
            Protocol::Http2 => ("https", "--http2"),
            Protocol::H2c => ("http", "--http2-prior-knowledge"),
        };
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--no-buffer", "--max-time", "60", version])
            .args(["--header", "Expect:", "--dump-header"])
            .arg(&heads)
            .args(arguments)
            .arg(format!("{scheme}://localhost:{}{path}", self.proxy.address.port()))
            .output()
            .unwrap();
        Seen {
            code: output.status.code().unwrap_or(-1),
            heads: std::fs::read_to_string(&heads).unwrap_or_default().to_lowercase(),
            body: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 | Protocol::H2c)
    }
}

/// An address without a listener.
fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Answers requests one after another on each connection, as `answer` says.
fn serving(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut connection| {
        loop {
            connection.read_body();
            let response = answer(&connection.head);
            connection.send(response);
            connection.rest.clear();
            connection.read_until(|rest| contains(rest, b"\r\n\r\n"));
            if connection.rest.is_empty() {
                return;
            }
            connection.head = String::from_utf8(std::mem::take(&mut connection.rest)).unwrap();
        }
    })
}

/// Invariant: a request is answered as long as one server is reachable. Mechanism: each retry advanced the round robin
/// and counted servers instead of addresses. Symptom: `[dead, live]` answered every page with 502, `[live, dead]` every
/// second one.
#[test]
fn a_dead_server_fails_no_request() {
    let live = serving(|head| match head.to_lowercase().contains("upgrade: websocket") {
        true => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
        false if head.contains("event-stream") => [UNTIL_CLOSE, "data: a\n\n"].concat().into_bytes(),
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
    });
    let (live, dead) = (live.address, dead_address());
    // `localhost` has ::1 and 127.0.0.1 on most machines; the backend listens on the second.
    let localhost = format!("localhost:{}", live.port());
    for servers in [
        format!("'{dead}', '{live}'"),
        format!("'{live}', '{dead}'"),
        format!("'{dead}', '{}', '{live}', '{dead}'", dead_address()),
        localhost.clone(),
        format!("'{dead}', '{localhost}'"),
    ] {
        let proxy = Proxy::start_with(&format!("upstreams: {{app: {{servers: [{servers}]}}}}\n"));
        for round in 0..6 {
            for (request, status) in [
                ("GET /page HTTP/1.1\r\nHost: test\r\n\r\n", 200),
                ("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc", 200),
                ("GET /e HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n", 200),
                ("GET /ws HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 101),
            ] {
                let mut client = proxy.connect();
                client.send(request);
                assert_eq!(client.read_head().status, status, "{servers}, round {round}: {request}");
            }
        }
    }
    let proxy = Proxy::start_with(&format!("upstreams: {{app: {{servers: ['{dead}', '{}']}}}}\n", dead_address()));
    let mut client = proxy.connect();
    client.send("GET /ws HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = client.read_head();
    assert_eq!(head.status, 502);
    assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=connection_refused"));
}

/// Invariant: a response to HEAD has no body. Mechanism: Pingora's HTTP/2 session writes the body of an error whatever the method.
/// Symptom: in place of the 502 the client sees a stream that broke the protocol.
#[test]
fn a_head_request_that_fails_gets_a_head() {
    for protocol in PROTOCOLS {
        for mode in ["never", "always"] {
            let front = Front::start(protocol, &format!("'{}'", dead_address()), &format!("{{stream: {mode}}}"));
            let seen = front.curl("/", &["--head"]);
            assert_eq!(seen.code, 0, "{protocol:?} {mode}: {seen:?}");
            assert_eq!(seen.heads.split(' ').nth(1), Some("502"), "{protocol:?} {mode}: {seen:?}");
        }
    }
}

/// Invariant: the whole request is forwarded while its response streams (RFC 9112 §9.5). Mechanism: the exchange ended
/// its upload at the response head. Symptom: 3 MB sent, 100 KB received, and a clean end for the client.
#[test]
fn an_upload_with_an_early_response_arrives_completely() {
    let uploads = tempfile::tempdir().unwrap();
    let files = [3, 20].map(|megabytes| {
        let file = uploads.path().join(format!("{megabytes}"));
        let block: Vec<u8> = (0..1_048_576_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&file, block.repeat(megabytes)).unwrap();
        (format!("@{}", file.display()), megabytes * 1_048_576)
    });
    // The head and a first piece at once, the number of bytes that came once all have come.
    let raw = Backend::start(|mut connection| {
        let kind = if connection.path() == "/stream" { "text/event-stream" } else { "application/json" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send([head.as_bytes(), &chunk(b": first\n\n")].concat());
        let request = connection.head.to_lowercase();
        let length = request.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        match length {
            Some(length) => connection.read_until(|body| body.len() >= length),
            None => connection.read_until(|body| body.ends_with(b"\r\n0\r\n\r\n")),
        }
        let body = if length.is_some() { connection.rest.clone() } else { dechunk(&connection.rest).0 };
        let whole = body.iter().enumerate().all(|(at, byte)| *byte as usize == at % 1_048_576 % 251);
        connection.send([&chunk(format!("data: {} {whole}\n\n", body.len()).as_bytes())[..], b"0\r\n\r\n"].concat());
        connection.hang();
    });
    let script = "const server = require('http').createServer((request, response) => {
        const type = request.url == '/stream' ? 'text/event-stream' : 'application/json';
        response.writeHead(200, {'Content-Type': type});
        response.write(': first\\n\\n');
        let count = 0;
        request.on('data', data => count += data.length);
        request.on('end', () => response.end(`data: ${count} true\\n\\n`));
    }).listen(0, '127.0.0.1', () => console.log('listening on 127.0.0.1:' + server.address().port));";
    let node = Program::start(Command::new("node").args(["--eval", script]));
    let node_address = node.address();
    for protocol in PROTOCOLS {
        for backend in [raw.address, node_address] {
            for mode in ["never", "always"] {
                let front = Front::start(protocol, &format!("'{backend}'"), &format!("{{stream: {mode}}}"));
                for (at, (file, length)) in files.iter().enumerate() {
                    for path in ["/page", "/stream"] {
                        for framing in ["Transfer-Encoding: chunked", "X: y"] {
                            // The larger one once for each protocol and path; HTTP/2 has no framing of its own.
                            let once = mode == "always" && backend == raw.address && framing == "X: y";
                            if (front.is_http2() && framing != "X: y") || (at > 0 && !once) {
                                continue;
                            }
                            let seen = front.curl(path, &["--data-binary", file, "--header", framing]);
                            let case = format!("{protocol:?} {backend} {mode} {path} {length} {framing}: {seen:?}");
                            assert_eq!(seen.code, 0, "{case}");
                            let body = String::from_utf8_lossy(&seen.body);
                            assert_eq!(body, format!(": first\n\ndata: {length} true\n\n"), "{case}");
                        }
                    }
                }
            }
        }
    }
}

/// Invariant: a stream that runs beside its upload behaves like any other. Mechanism: it is driven inside its session.
/// Symptom: no heartbeats, no counts, no line in the log, or a broken end that looks clean.
#[test]
fn a_stream_beside_its_upload_behaves_like_any_other() {
    let backend = Backend::start(|mut connection| {
        connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat());
        match connection.path() {
            "/break" => {
                std::thread::sleep(Duration::from_millis(300));
                connection.reset();
            }
            _ => connection.hang(),
        }
    });
    let proxy = Proxy::start(
        backend.address,
        "    stream: always\n    heartbeat: {interval: 50ms}\n    timeouts: {idle: 400ms}",
    );
    for (path, end) in [("/idle", "idle_timeout"), ("/break", "upstream_broken"), ("/gone", "client_gone")] {
        let mut client = proxy.connect();
        client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf of it"));
        assert_eq!(client.read_head().status, 200);
        client.read_until_body_has("data: a\n\n:\n\n");
        if path == "/gone" {
            drop(client);
        } else {
            let rest = client.read_to_end();
            assert!(rest.is_err() || dechunk(&rest.unwrap()).1.is_none(), "{path}: the client sees a broken end");
        }
        let log = proxy.log_line();
        assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some(end), Some(false)), "{path}");
        assert_eq!(log["events"], 1, "{path}");
        assert!(log["heartbeats"].as_u64().unwrap() >= 1, "{path}");
    }
    assert_eq!(proxy.metric("sse_proxy_streams_active{route=\"/\"}"), Some(0.0));
}

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
    for protocol in PROTOCOLS {
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
    }
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
    for answer in answers {
        let backend = Backend::answering(vec![answer.into()]);
        for protocol in PROTOCOLS {
            for arguments in [&[][..], &["--http1.0"]] {
                let front = Front::start(protocol, &format!("'{}'", backend.address), "{stream: never}");
                if front.is_http2() && !arguments.is_empty() {
                    continue;
                }
                let seen = front.curl("/", arguments);
                assert_ne!(seen.code, 0, "{protocol:?} {arguments:?} {answer:?}: {seen:?}");
                if front.is_http2() {
                    assert!(seen.stderr.contains("INTERNAL_ERROR"), "{seen:?}");
                    assert_eq!(String::from_utf8_lossy(&seen.body), "part", "{seen:?}");
                }
            }
        }
    }
}

/// Invariant: the proxy closes connections without progress. Mechanism: pages had no time limits. Symptom: 50 clients
/// that read nothing held 100 descriptors and 630 to 760 KiB of memory each, without a limit.
#[test]
fn a_client_that_does_not_read_a_page_times_out_and_takes_little_memory() {
    let clients = 50;
    let running = Arc::new(AtomicUsize::new(0));
    let counted = running.clone();
    let backend = Backend::start(move |mut connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while connection.socket.write_all(&[b'x'; 1 << 16]).is_ok() {}
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    for protocol in [Protocol::Http1, Protocol::Tls] {
        let front = Front::start(protocol, &format!("'{}'", backend.address), "{stream: never, timeouts: {write: 3s}}");
        let before = resident_kib(front.proxy.pid());
        let mut stalled: Vec<(Option<Client>, Option<std::process::Child>)> = Vec::new();
        for _ in 0..clients {
            match protocol {
                Protocol::Http1 => {
                    let mut client = Client::connect_small(front.proxy.address);
                    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                    stalled.push((Some(client), None));
                }
                _ => {
                    let url = format!("https://localhost:{}/", front.proxy.address.port());
                    let mut child = Command::new("curl");
                    child.args(["--silent", "--insecure", "--http1.1", "--limit-rate", "1", &url]);
                    child.stdout(std::process::Stdio::null());
                    stalled.push((None, Some(child.spawn().unwrap())));
                }
            }
        }
        eventually("all are under way", || (running.load(Ordering::SeqCst) == clients).then_some(()));
        std::thread::sleep(Duration::from_millis(500));
        let each = resident_kib(front.proxy.pid()).saturating_sub(before) / clients as u64;
        eprintln!("{protocol:?}: {each} KiB of the process for each client that reads nothing");
        // With what the first connections of a process take, spread over these.
        let bound = if protocol == Protocol::Http1 { 250 } else { 500 };
        assert!(each < bound, "{protocol:?}: {each} KiB for each");
        eventually("all are cut", || (running.load(Ordering::SeqCst) == 0).then_some(()));
        for (_, child) in stalled {
            if let Some(mut child) = child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_upstream_that_is_silent_within_a_page_times_out() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
        connection.hang();
    });
    for protocol in PROTOCOLS {
        for mode in ["never", "always"] {
            let route = format!("{{stream: {mode}, timeouts: {{read: 300ms}}}}");
            let front = Front::start(protocol, &format!("'{}'", backend.address), &route);
            let asked = Instant::now();
            let seen = front.curl("/a?token=secret", &[]);
            assert_ne!(seen.code, 0, "{protocol:?} {mode} {seen:?}");
            assert!(asked.elapsed() >= Duration::from_millis(300), "{protocol:?} {mode}");
            assert_eq!(String::from_utf8_lossy(&seen.body), "part", "{protocol:?} {mode}");
            let log = eventually("a line in the log", || {
                Some(front.proxy.stderr()).filter(|log| log.contains("timeouts.read (300ms)"))
            });
            assert!(log.contains("/a?…") && !log.contains("secret"), "{log}");
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

/// Invariant: connections to backends are reused, and a closed one fails no request. Mechanism: a server may close an
/// idle connection while a request is sent on it. Symptom: an occasional 502.
#[test]
fn idle_connections_are_reused_and_closed_ones_replaced() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    let backend = Backend::start(move |mut connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        loop {
            let path = connection.path().to_owned();
            connection.answer("text/plain", "ok");
            connection.rest.clear();
            connection.read_until(|rest| contains(rest, b"\r\n\r\n"));
            if connection.rest.is_empty() || path == "/close" {
                // Closes with the next request unanswered.
                return;
            }
            connection.head = String::from_utf8(std::mem::take(&mut connection.rest)).unwrap();
        }
    });
    let proxy = Proxy::start(backend.address, "    stream: never");
    let ask = |request: &str| {
        let mut client = proxy.connect();
        client.send(&format!("{request} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(client.read_head().status, 200, "{request}");
        client.read_until(|body| body == b"ok");
    };
    for _ in 0..10 {
        ask("GET /a");
    }
    // The next request may come before the last connection has been put back.
    assert!(accepted.load(Ordering::SeqCst) < 5, "few connections for all");
    for _ in 0..10 {
        ask("GET /close");
        // Goes out on the kept connection first.
        ask("DELETE /a");
        ask("POST /a");
    }
}

/// Invariant: a request loop is detected. Mechanism: a request that came back looked like a new one. Symptom: one
/// request used every descriptor of the process.
#[test]
fn a_request_loop_is_a_508() {
    let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let back = to.clone();
    let backend = Backend::start(move |mut connection| {
        let mut proxy = TcpStream::connect(back.lock().unwrap().unwrap()).unwrap();
        proxy.write_all(connection.head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        proxy.read_to_end(&mut answer).unwrap();
        connection.send(answer);
    });
    for mode in ["never", "always"] {
        let proxy = Proxy::start(backend.address, &format!("    stream: {mode}"));
        *to.lock().unwrap() = Some(proxy.address);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let head = client.read_head();
        assert_eq!(head.status, 508, "{mode}");
        assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=proxy_loop_detected"));
        assert_eq!(proxy.metric("sse_proxy_refused_total{reason=\"loop\"}"), Some(1.0));
    }
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
        (format!("'{}'", large.address), 502, "http_response_header_section_size", "limits.response_header (65536"),
        (format!("'{}'", dead_address()), 502, "connection_refused", "cannot connect to the upstream"),
        (format!("'{}'", silent.address), 504, "http_response_timeout", "timeouts.first_byte"),
        (format!("'{}'", closing.address), 502, "connection_terminated", "broke off"),
        (format!("'{untrusted}'"), 502, "tls_certificate_error", "certificate cannot be verified"),
        ("'no-such-name.invalid:80'".to_owned(), 502, "destination_unavailable", "no server to connect to"),
    ];
    let limits = "timeouts: {first_byte: 300ms}";
    for protocol in PROTOCOLS {
        for (servers, status, error, says) in &cases {
            for mode in ["never", "always"] {
                let front = Front::start(protocol, servers, &format!("{{stream: {mode}, {limits}}}"));
                check_error(&front.curl("/p", &[]), *status, error, says);
            }
        }
        let front = Front::start(protocol, "'127.0.0.1:9'", "{match: {path_prefix: /only}}");
        check_error(&front.curl("/p", &[]), 404, "destination_not_found", "no route");
    }
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

/// Invariant: every event stream is served as one. Mechanism: an offer of HTTP/2, a status of 201, the coding `none`
/// and a list of media types each disabled streaming. Symptom: no heartbeats, no time limits, no counts.
#[test]
fn streams_with_unusual_heads_are_detected() {
    let heads = [
        "HTTP/1.1 201 Created\r\nContent-Type: text/event-stream\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream, text/plain\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: \r\nContent-Type: text/event-stream\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: none\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: \r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity, identity\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: identity\r\n",
    ];
    let requests = [
        "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    ];
    for driver in ["parked", "task"] {
        for head in heads {
            for request in requests {
                let backend = Backend::start(move |mut connection| {
                    let request = connection.head.to_lowercase();
                    assert!(!request.contains("upgrade") && !request.contains("http2-settings"), "{request}");
                    connection.send(format!("{head}\r\ndata: a\n\n"));
                    connection.hang();
                });
                let config = format!(
                    "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{heartbeat: {{interval: 50ms}}}}]\n",
                    backend.address
                );
                let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
                let mut client = proxy.connect();
                client.send(request);
                client.read_head();
                client.read_until_body_has("data: a\n\n:\n\n");
                drop(client);
                assert_eq!(proxy.log_line()["events"], 1, "{driver} {head} {request}");
            }
        }
    }
}

/// Invariant: a drain ends every stream at its next boundary, or at once if boundaries cannot be seen. Mechanism: a
/// coded body has no visible boundaries. Symptom: coded streams delayed a drain by its whole limit.
#[test]
fn a_drain_ends_a_coded_stream_at_once_and_broken() {
    let backend = Backend::start(|mut connection| {
        connection.send([&CHUNKED[..CHUNKED.len() - 2], "Content-Encoding: gzip\r\n\r\n"].concat());
        connection.send(chunk(b"coded"));
        connection.hang();
    });
    let mut proxy = Proxy::start_with(&format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\ndrain: {{timeout: 60s}}\n",
        backend.address
    ));
    let mut client = proxy.stream("/events");
    client.read_head();
    client.read_until_body_has("coded");
    let asked = Instant::now();
    proxy.terminate();
    let rest = client.read_to_end();
    assert!(rest.is_err() || dechunk(&rest.unwrap()).1.is_none(), "the client sees a broken end");
    let log = proxy.log_line();
    assert_eq!((log["end"].as_str(), log["clean"].as_bool()), (Some("drain"), Some(false)));
    assert_eq!(proxy.exited().code(), Some(0));
    assert!(asked.elapsed() < DEADLINE, "not after the drain's limit");
}

/// Invariant: `timeouts.first_byte` measures the upstream only. Mechanism: pipelined bytes of the client restarted the
/// timer of its first request. Symptom: a client that kept sending single bytes kept a request open without a limit.
#[test]
fn pipelined_bytes_do_not_restart_the_first_byte_timeout() {
    let backend = Backend::start(|connection| connection.hang());
    for driver in ["parked", "task"] {
        for mode in ["always", "never"] {
            let config = format!(
                "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: {mode}, timeouts: {{first_byte: 500ms}}}}]\n",
                backend.address
            );
            let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
            let mut client = proxy.connect();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            let mut sender = client.socket.try_clone().unwrap();
            let until = Instant::now() + DEADLINE / 2;
            let sending = std::thread::spawn(move || {
                while Instant::now() < until && sender.write_all(b"G").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let asked = Instant::now();
            assert_eq!(client.read_head().status, 504, "{driver} {mode}");
            assert!(asked.elapsed() < DEADLINE / 4, "{driver} {mode}: {:?}", asked.elapsed());
            drop(client);
            sending.join().unwrap();
        }
    }
}

/// Invariant: `timeouts.write` applies to every write. Mechanism: the write of interim responses was limited by the
/// upstream's timer, which `first_byte: 0` disables. Symptom: a client that read nothing held its request and both
/// connections without a limit.
#[test]
fn a_client_that_does_not_read_interim_responses_times_out() {
    let backend = Backend::start(|mut connection| {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10_000);
        while connection.socket.write_all(interim.as_bytes()).is_ok() {}
    });
    for driver in ["parked", "task"] {
        for mode in ["always", "never"] {
            let limits = "timeouts: {first_byte: 0, write: 500ms}";
            let config = format!(
                "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: {mode}, {limits}}}]\n",
                backend.address
            );
            let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
            let mut client = Client::connect_small(proxy.address);
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"write_timeout\"}";
            eventually(&format!("{driver} {mode}: the failure is counted"), || {
                (proxy.metric(metric) == Some(1.0)).then_some(())
            });
            eventually("a line in the log", || proxy.stderr().contains("timeouts.write").then_some(()));
        }
    }
}

/// Invariant: nothing but its rest follows part of a response head. Mechanism: a request whose interim response its client had
/// not read was answered with the error of the upstream's deadline. Symptom: a status line within a header field.
#[test]
fn no_error_follows_part_of_an_interim_response() {
    let backend = Backend::start(|mut connection| {
        let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(10_000)).repeat(100);
        while connection.socket.write_all(interim.as_bytes()).is_ok() {}
    });
    for (driver, mode) in [("parked", "always"), ("task", "always"), ("task", "never")] {
        let limits = "timeouts: {first_byte: 2s, write: 10m}";
        let config = format!(
            "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: {mode}, {limits}}}]\n",
            backend.address
        );
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
        let mut client = Client::connect_small(proxy.address);
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"first_byte_timeout\"}";
        eventually(&format!("{driver} {mode}: the failure is counted"), || {
            (proxy.metric(metric) == Some(1.0)).then_some(())
        });
        let received = client.read_to_end().unwrap_or_else(|_| client.text().into_bytes());
        let received = String::from_utf8(received).unwrap();
        // On a busy machine the client's buffers may not be full by then, and no head is in part.
        if let Some((before, _)) = received.split_once("HTTP/1.1 504") {
            assert!(before.ends_with("\r\n\r\n"), "{driver} {mode}: after {} bytes", before.len());
        }
    }
}

/// Invariant: as for HTTP/1 in `requests.rs`. Mechanism: a stream of HTTP/2 was watched only once its request had been
/// read.
#[test]
fn an_http_2_client_that_closes_while_its_upload_waits_is_detected() {
    let (release, done) = std::sync::mpsc::channel::<()>();
    let done = std::sync::Mutex::new(done);
    // Reads nothing.
    let backend = Backend::start(move |_connection| {
        let _ = done.lock().unwrap().recv();
    });
    let directory = tempfile::tempdir().unwrap();
    let body = directory.path().join("body");
    std::fs::write(&body, vec![b'x'; 16 << 20]).unwrap();
    for mode in ["always", "never"] {
        let front = Front::start(Protocol::H2c, &format!("'{}'", backend.address), &format!("{{stream: {mode}}}"));
        let mut curl = Command::new("curl")
            .args(["--silent", "--http2-prior-knowledge", "--header", "Expect:", "--upload-file"])
            .arg(&body)
            .arg(format!("http://localhost:{}/up", front.proxy.address.port()))
            .spawn()
            .unwrap();
        backend.request();
        // Until the upload waits.
        std::thread::sleep(Duration::from_millis(500));
        let closed = Instant::now();
        curl.kill().unwrap();
        curl.wait().unwrap();
        let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"client_gone\"}";
        eventually(mode, || (front.proxy.metric(metric) == Some(1.0)).then_some(()));
        assert!(closed.elapsed() < Duration::from_secs(10), "{mode}: {:?}", closed.elapsed());
    }
    drop(release);
}

/// Invariant: a stream breaks after one pause, in which its client reads what has been sent. Mechanism: a stream beside its
/// upload took the pause of HTTP/1 and then that of HTTP/2. Symptom: its end came after a second, and a `timeouts.write`
/// below that cut what had not been read.
#[test]
fn a_stream_over_http_2_beside_its_upload_breaks_after_one_pause() {
    let backend = Backend::start(|mut connection| {
        connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat());
        connection.hang();
    });
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: always}}]\nclient: {{timeouts: {{body: 300ms}}}}\n",
        backend.address
    );
    let proxy = Proxy::start_listening("{address: 127.0.0.1:0, h2c: true}", &config);
    let half_a_request = || async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(socket).await.unwrap();
        let driven = tokio::spawn(connection);
        let request = http::Request::post(format!("http://{}/events", proxy.address)).body(()).unwrap();
        let (response, mut body) = requests.send_request(request, false).unwrap();
        body.send_data("half".into(), false).unwrap();
        let mut response = response.await.unwrap().into_body();
        let mut received = Vec::new();
        let error = loop {
            match response.data().await.expect("a broken end") {
                Ok(data) => received.extend_from_slice(&data),
                Err(error) => break error,
            }
        };
        driven.abort();
        (received, error.reason())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The machine may be busy: the shortest of some counts.
    let mut durations = Vec::new();
    while durations.len() < 5 && durations.iter().all(|duration| *duration >= 1250) {
        let (received, reason) = runtime.block_on(half_a_request());
        assert_eq!((received, reason), (b"data: a\n\n".to_vec(), Some(h2::Reason::INTERNAL_ERROR)));
        durations.push(proxy.log_line()["duration_ms"].as_u64().unwrap());
    }
    let shortest = durations.iter().min().copied().unwrap_or_default();
    assert!((800..1250).contains(&shortest), "300 ms and one pause of 500 ms, not two: {durations:?}");
}

/// A backend that has nothing to say to a stream's request but an error, and a route for streams only: both are answered on the
/// connection, and what came before for one request is not given to the next.
#[test]
fn an_early_response_belongs_to_its_request() {
    let backend = Backend::start(|mut connection| {
        let path = connection.path().to_owned();
        connection.answer("text/plain", &path);
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    for at in 0..5 {
        client.send(&format!("GET /{at} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(client.read_head().status, 200);
        let wanted = format!("/{at}");
        client.read_until(|body| body.len() >= wanted.len());
        assert!(client.text().ends_with(&wanted), "{}", client.text());
        client.forget();
    }
}

#[test]
fn an_upstream_that_is_the_proxy_itself_is_refused() {
    for (listen, server, refused) in [
        ("127.0.0.1:8123", "127.0.0.1:8123", true),
        ("0.0.0.0:8123", "127.0.0.1:8123", true),
        ("'[::]:8123'", "'[::1]:8123'", true),
        ("'[::]:8123'", "localhost:8123", true),
        ("127.0.0.1:8123", "localhost:8123", true),
        ("127.0.0.1:8123", "127.0.0.1:8124", false),
        ("127.0.0.1:8123", "127.0.0.2:8123", false),
        ("0.0.0.0:8123", "192.0.2.1:8123", false),
        ("0.0.0.0:8123", "example.org:8123", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.yaml");
        let config = format!("listen: [{{address: {listen}}}]\nupstreams: {{app: {{servers: [{server}]}}}}\n");
        std::fs::write(&file, config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_sse-proxy")).arg("check-config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), !refused, "{listen} {server}: {said}");
        assert!(!refused || said.contains("upstreams.app.servers[0]"), "{said}");
    }
}
