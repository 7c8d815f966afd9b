//! Requests with a body whose response begins early.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{Front, Protocol, for_each_protocol};
use crate::support::{Backend, CHUNKED, Program, Proxy, chunk, dechunk, eventually};

/// Invariant: the whole request is forwarded while its response streams (RFC 9112 §9.5). Mechanism: the exchange ended
/// its upload at the response head. Symptom: 3 MB sent, 100 KB received, and a clean end for the client.
#[test]
fn an_upload_with_an_early_response_arrives_completely() {
    let uploads = tempfile::tempdir().unwrap();
    let files = [3, 12].map(|megabytes| {
        let file = uploads.path().join(format!("{megabytes}"));
        let block: Vec<u8> = (0..1_048_576_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&file, block.repeat(megabytes)).unwrap();
        (format!("@{}", file.display()), megabytes * 1_048_576)
    });
    // The head and a first piece at once, the number of bytes that came once all have come.
    let raw = Backend::start(|mut connection| {
        let kind = if connection.path().ends_with("/stream") { "text/event-stream" } else { "application/json" };
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
        const type = request.url.endsWith('/stream') ? 'text/event-stream' : 'application/json';
        response.writeHead(200, {'Content-Type': type});
        response.write(': first\\n\\n');
        let count = 0;
        request.on('data', data => count += data.length);
        request.on('end', () => response.end(`data: ${count} true\\n\\n`));
    }).listen(0, '127.0.0.1', () => console.log('listening on 127.0.0.1:' + server.address().port));";
    let node = Program::start(Command::new("node").args(["--eval", script]));
    let backends = [("raw", raw.address), ("node", node.address())];
    let [mut upstreams, mut routes] = ["upstreams:\n", "routes:\n"].map(str::to_owned);
    for (name, address) in backends {
        upstreams += &format!("  {name}: {{servers: ['{address}']}}\n");
        for mode in ["never", "always"] {
            let prefix = format!("/{name}/{mode}");
            routes += &format!("  - {{match: {{path_prefix: {prefix}}}, upstream: {name}, stream: {mode}}}\n");
        }
    }
    let config = upstreams + &routes;
    for_each_protocol(|protocol| {
        let front = Front::start_with(protocol, &config);
        for (name, _) in backends {
            for mode in ["never", "always"] {
                for (at, (file, length)) in files.iter().enumerate() {
                    for kind in ["page", "stream"] {
                        for framing in ["Transfer-Encoding: chunked", "X: y"] {
                            // The larger one once for each protocol and kind; HTTP/2 has no framing of its own.
                            let once = mode == "always" && name == "raw" && framing == "X: y";
                            if (front.is_http2() && framing != "X: y") || (at > 0 && !once) {
                                continue;
                            }
                            let path = format!("/{name}/{mode}/{kind}");
                            let seen = front.curl(&path, &["--data-binary", file, "--header", framing]);
                            let case = format!("{protocol:?} {path} {length} {framing}: {seen:?}");
                            assert_eq!(seen.code, 0, "{case}");
                            let body = String::from_utf8_lossy(&seen.body);
                            assert_eq!(body, format!(": first\n\ndata: {length} true\n\n"), "{case}");
                        }
                    }
                }
            }
        }
    });
}

/// Invariant: a stream that runs beside its upload behaves like any other. Mechanism: it is driven inside its session.
/// Symptom: no heartbeats, no counts, no line in the log, or a broken end that looks clean.
#[test]
fn a_stream_beside_its_upload_behaves_like_any_other() {
    let backend = Backend::start(|mut connection| {
        connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat());
        match connection.path() {
            "/break" => {
                connection.wait_for_test();
                connection.reset();
            }
            _ => connection.hang(),
        }
    });
    let proxy =
        Proxy::start(backend.address, "    stream: always\n    heartbeat: {interval: 50ms}\n    timeouts: {idle: 2s}");
    for (path, end) in [("/idle", "idle_timeout"), ("/break", "upstream_broken"), ("/gone", "client_gone")] {
        let mut client = proxy.connect();
        client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf of it"));
        assert_eq!(client.read_head().status, 200);
        client.read_until_body_has("data: a\n\n:\n\n");
        if path == "/gone" {
            drop(client);
        } else {
            if path == "/break" {
                backend.proceed(1);
            }
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
