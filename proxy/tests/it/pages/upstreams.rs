//! Which server and which connection a page comes from.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{dead_address, serving};
use crate::support::{Backend, Certificate, Proxy, UNTIL_CLOSE, contains, eventually};

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

/// Invariant: a response belongs to the request before it. Mechanism: bytes that arrived on a kept connection were the start
/// of the next response. Symptom: a backend that sends too much answers the next request, of any client.
#[test]
fn bytes_behind_a_response_are_not_the_next_response() {
    const RIGHT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let certificate = Certificate::new();
    for tls in [false, true] {
        for late in [Duration::ZERO, Duration::from_millis(20)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = tls.then(|| Arc::new(certificate.server_config()));
            let sent = Arc::new(AtomicUsize::new(0));
            let count = sent.clone();
            std::thread::spawn(move || {
                while let Ok((mut socket, _)) = listener.accept() {
                    // What is written goes out at once, and not with the acknowledgement that the next request carries.
                    socket.set_nodelay(true).unwrap();
                    let (server, count) = (server.clone(), count.clone());
                    std::thread::spawn(move || match server {
                        None => answer_twice(&mut socket, RIGHT, late, EVIL, &count),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            let mut socket = rustls::StreamOwned::new(connection, socket);
                            answer_twice(&mut socket, RIGHT, late, EVIL, &count);
                        }
                    });
                }
            });
            let server = if tls { format!("https://localhost:{}", address.port()) } else { address.to_string() };
            let proxy = Proxy::start_in(
                &[("SSL_CERT_FILE", certificate.cert.to_str().unwrap())],
                "{address: 127.0.0.1:0}",
                &format!("upstreams: {{app: {{servers: ['{server}']}}}}\nroutes: [{{stream: never}}]\n"),
            );
            for round in 0..20 {
                let mut client = proxy.connect();
                client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
                let head = client.read_head();
                let body = client.read_to_end().unwrap();
                assert_eq!((head.status, body.as_slice()), (200, &b"ok"[..]), "TLS {tls}, {late:?}, {round}");
                eventually("what comes late has been sent", || (sent.load(Ordering::SeqCst) > round).then_some(()));
            }
        }
    }
}

/// Answers each request on a connection, and sends more behind each answer, in the same write or later.
fn answer_twice(connection: &mut (impl Read + Write), answer: &str, late: Duration, more: &str, sent: &AtomicUsize) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = connection.read(&mut buffer) {
        let (first, second) = if late.is_zero() { ([answer, more].concat(), "") } else { (answer.to_owned(), more) };
        for (pause, bytes) in [(Duration::ZERO, first.as_str()), (late, second)] {
            std::thread::sleep(pause);
            // The proxy may have closed the connection.
            let _ = connection.write_all(bytes.as_bytes()).and_then(|()| connection.flush());
        }
        sent.fetch_add(1, Ordering::SeqCst);
    }
}
