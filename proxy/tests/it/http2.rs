//! The other listeners: TLS with HTTP/2 and HTTP/1.1, and HTTP/2 without TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Backend, CHUNKED, Certificate, Proxy, chunk, eventually};

/// A listener of the given keys with a fresh certificate, in front of `backend`.
fn listening(backend: &Backend, listener: &str) -> (Proxy, Certificate) {
    let certificate = Certificate::new();
    let listener = listener.replace("TLS", &format!("tls: {}", certificate.yaml()));
    let proxy = Proxy::start_listening(
        &format!("{{address: 127.0.0.1:0{listener}}}"),
        &format!(
            "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{heartbeat: {{interval: 80ms}}, timeouts: {{write: 2s}}}}]\n",
            backend.address
        ),
    );
    (proxy, certificate)
}

/// An event, then silence; `/flood` never stops.
fn backend() -> Backend {
    Backend::start(|mut connection| {
        connection.send(CHUNKED);
        if connection.path() == "/flood" {
            let events = chunk(&b"data: 0123456789012345678901234567890123456789\n\n".repeat(1000));
            while std::io::Write::write_all(&mut connection.socket, &events).is_ok() {}
        } else {
            connection.send(chunk(b"data: a\n\n"));
            connection.hang();
        }
    })
}

fn streams(origin: &str, arguments: &[&str]) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/http2.mjs");
    let output = Command::new("node").arg(script).arg(origin).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(seen: &serde_json::Value, count: usize, protocol: &str) {
    assert_eq!(seen["protocol"], protocol);
    let results = seen["results"].as_array().unwrap();
    assert_eq!(results.len(), count);
    for result in results {
        assert_eq!(result["status"], 200);
        assert!(result["text"].as_str().unwrap().starts_with("data: a\n\n:\n\n"), "{result}");
    }
}

#[test]
fn a_hundred_streams_share_one_connection_over_tls() {
    let backend = backend();
    let (proxy, _files) = listening(&backend, ", TLS");
    let seen = streams(&format!("https://localhost:{}", proxy.address.port()), &["100"]);
    check(&seen, 100, "h2");
    let request = backend.request().to_lowercase();
    assert!(request.contains("x-forwarded-proto: https"), "{request}");
    assert!(request.contains("\r\ncookie: a=1; b=2\r\n"), "one cookie field: {request}");
    assert!(request.contains(&format!("\r\nhost: localhost:{}\r\n", proxy.address.port())), "{request}");
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

#[test]
fn http_2_without_tls_is_accepted_on_h2c_listeners() {
    let backend = backend();
    let (proxy, _files) = listening(&backend, ", h2c: true");
    check(&streams(&format!("http://{}", proxy.address), &["10"]), 10, "h2c");
    // The listener serves HTTP/1.1, too.
    let mut client = proxy.stream("/events");
    assert_eq!(client.read_head().status, 200);
    client.read_until_body_has("data: a\n\n:\n\n");
}

#[test]
fn a_stalled_stream_does_not_block_its_siblings() {
    let backend = backend();
    let (proxy, _files) = listening(&backend, ", TLS");
    let seen = streams(&format!("https://localhost:{}", proxy.address.port()), &["20", "/flood"]);
    check(&seen, 20, "h2");
}

/// Invariant: every event before a broken end reaches the client. Mechanism: the reset overtook and dropped what was
/// queued on the connection. Symptom: the last event was lost.
#[test]
fn an_event_right_before_a_broken_end_arrives_before_the_reset() {
    let backend = Backend::start(|mut connection| {
        connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n"), b"100\r\ndata: torn"].concat());
    });
    let (proxy, _files) = listening(&backend, ", h2c: true");
    for _ in 0..3 {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--no-buffer", "--http2-prior-knowledge", "--max-time", "20"])
            .args(["--header", "Accept: text/event-stream", &format!("http://{}/events", proxy.address)])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(92), "curl's exit code for a reset stream");
        // To some clients CANCEL is an ordinary end.
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("INTERNAL_ERROR"), "{error}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "data: a\n\ndata: torn");
        assert_eq!(proxy.log_line()["end"], "upstream_broken");
    }
}

/// Invariant: unacknowledged data is limited in time, over HTTP/2 as well. Mechanism: heartbeats to a vanished client
/// stayed in the kernel's buffers, which have room for days of them. Symptom: only the kernel's own limit of 15 minutes
/// detected it.
#[test]
fn an_http_2_client_that_stops_acknowledging_is_detected() {
    let backend = backend();
    let (proxy, _files) = listening(&backend, ", h2c: true");
    let request = http::Request::get(format!("http://{}/events", proxy.address));
    let request = request.header("accept", "text/event-stream").body(()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stalled = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // The smallest the kernel gives, so that it is full soon.
        socket.set_recv_buffer_size(1).unwrap();
        let socket = socket.connect(proxy.address).await.unwrap();
        let (mut client, mut connection) = h2::client::handshake(socket).await.unwrap();
        let (stream, _) = client.send_request(request, true).unwrap();
        let opened = async {
            let mut body = stream.await.unwrap().into_body();
            body.data().await.unwrap().unwrap();
            body
        };
        // From here on the connection is not read.
        let body = tokio::select! {
            ended = &mut connection => panic!("{ended:?}"),
            body = opened => body,
        };
        (client, connection, body)
    });
    let end = proxy.log_line()["end"].clone();
    assert!(end == "client_gone" || end == "write_timeout", "{end}");
    drop(stalled);
}

/// Invariant: every request on a listener for both protocols is answered. Mechanism: protocol detection waited for as
/// many bytes as the preface of HTTP/2 has. Symptom: a shorter request got no response.
#[test]
fn a_request_shorter_than_the_preface_is_answered_on_h2c_listeners() {
    let backend = Backend::answering(vec![b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()]);
    let (proxy, _files) = listening(&backend, ", h2c: true");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
}

/// A malformed request gets its own error. Too many of them close the connection with all its streams.
#[test]
fn malformed_requests_are_refused_individually_up_to_a_limit() {
    let backend = backend();
    let (proxy, _files) = listening(&backend, ", h2c: true");
    let request = |host: &str| {
        let uri = format!("http://{}/events", proxy.address);
        http::Request::get(uri).header("host", host).header("accept", "text/event-stream").body(()).unwrap()
    };
    let conversation = async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let (stream, _) = client.send_request(request(&proxy.address.to_string()), true).unwrap();
        let mut stream = stream.await.unwrap().into_body();
        for _ in 1..32 {
            client = client.ready().await.unwrap();
            let (refused, _) = client.send_request(request("another.example"), true).unwrap();
            assert_eq!(refused.await.unwrap().status(), 400);
        }
        let mut seen = Vec::new();
        while !seen.ends_with(b":\n\n") {
            seen.extend_from_slice(&stream.data().await.unwrap().unwrap());
        }
        client = client.ready().await.unwrap();
        let _last = client.send_request(request("another.example"), true).unwrap();
        while let Some(Ok(_)) = stream.data().await {}
        let _closed = connection.await.unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), conversation).await }).unwrap();
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

/// What a client keeps of its streams, one on each connection.
type Kept = Vec<(h2::client::SendRequest<bytes::Bytes>, h2::RecvStream)>;

async fn open_connections(address: std::net::SocketAddr, count: usize, kept: &mut Kept) {
    for _ in 0..count {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{address}/events")).header("accept", "text/event-stream");
        let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        kept.push((client, response.await.unwrap().into_body()));
    }
}

/// Pingora would keep a future of 12 KiB for each connection, and the allocator gave a connection's buffers pages that the
/// requests before it had written: 37 to 55 KiB for each silent stream.
#[test]
fn a_silent_stream_with_a_connection_of_its_own_takes_less_than_26_kib() {
    const STREAMS: usize = 300;
    let backend = backend();
    // Nobody reads heartbeats here, and the client gives up a connection with many unread frames.
    let config =
        format!("upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{heartbeat: {{interval: 0}}}}]\n", backend.address);
    let proxy = Proxy::start_listening("{address: 127.0.0.1:0, h2c: true}", &config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut kept = Vec::new();
    // The first connections allocate what all share.
    runtime.block_on(open_connections(proxy.address, 50, &mut kept));
    let before = proxy.memory();
    runtime.block_on(open_connections(proxy.address, STREAMS, &mut kept));
    let mut each = 0;
    eventually("the memory of requests goes back", || {
        each = proxy.memory().saturating_sub(before) / STREAMS / 1024;
        (each < 26).then_some(())
    });
    let active = proxy.metric("sse_proxy_streams_active{route=\"/\"}");
    if active != Some(kept.len() as f64) {
        panic!(
            "{active:?} of {} streams are open, {each} KiB for each; one has ended: {}",
            kept.len(),
            proxy.log_line()
        );
    }
}

/// A backend with TLS only, for a key and a certificate file.
const TLS_BACKEND: &str = "
const [key, cert] = process.argv.slice(1).map((file) => require('fs').readFileSync(file));
require('https').createServer({ key, cert }, (request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.write('data: ' + request.headers.host + '\\n\\n');
}).listen(0, '127.0.0.1', function () { console.log(this.address().port); });
";

#[test]
fn an_upstream_over_tls_is_verified_and_streams() {
    let Certificate { cert, key, .. } = &Certificate::new();
    let mut node = Command::new("node")
        .args(["-e", TLS_BACKEND])
        .args([key, cert])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(node.stdout.take().unwrap()), &mut port).unwrap();
    let config = format!(
        "upstreams: {{app: {{servers: ['https://localhost:{}']}}}}\nroutes: [{{heartbeat: {{interval: 80ms}}}}]\n",
        port.trim()
    );
    let trusted = [("SSL_CERT_FILE", cert.to_str().unwrap())];
    let proxy = Proxy::start_in(&trusted, "{address: 127.0.0.1:0}", &config);
    let mut client = proxy.stream("/events");
    assert_eq!(client.read_head().status, 200);
    client.read_until_body_has("data: test\n\n:\n\n");

    // Here its certificate is not trusted.
    let proxy = Proxy::start_with(&config);
    assert_eq!(proxy.stream("/events").read_head().status, 502);
    node.kill().unwrap();
    node.wait().unwrap();
}
