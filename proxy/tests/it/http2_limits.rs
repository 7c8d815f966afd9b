//! Limits on HTTP/2 connections: floods of control frames, connections without streams, vanished peers, unfinished
//! heads. Raw frames over h2c; and heavy legitimate use, which must not be limited.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Backend, CHUNKED, Certificate, DEADLINE, Proxy, chunk, eventually};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;

/// GET /events of HPACK's static table, with `:authority` as a literal; `END_STREAM` is for the flags to say.
const REQUEST: &[u8] = b"\x82\x86\x44\x07/events\x41\x04test\x0f\x04\x11text/event-stream";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client that sends raw frames.
struct Raw {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    fn connect(proxy: &Proxy) -> Self {
        let mut socket = TcpStream::connect(proxy.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(PREFACE).unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        Self { socket, received: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next frame: kind, flags, stream, payload; `None` at the end of the connection.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if self.received.len() >= 9 {
                let length = u32::from_be_bytes([0, self.received[0], self.received[1], self.received[2]]) as usize;
                if self.received.len() >= 9 + length {
                    let frame: Vec<u8> = self.received.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
                    return Some((frame[3], frame[4], stream, frame[9..].to_vec()));
                }
            }
            let mut buffer = [0; 16_384];
            match self.socket.read(&mut buffer) {
                Ok(count @ 1..) => self.received.extend_from_slice(&buffer[..count]),
                Ok(_) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the connection is still open: {error}"),
            }
        }
    }

    /// Reads to the end of the connection; the error code of the last GOAWAY, if one came.
    fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]));
            }
        }
        code
    }
}

fn backend() -> Backend {
    Backend::start(|mut connection| {
        if connection.path().starts_with("/download") {
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 << 20));
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..100 {
                connection.send(&piece);
            }
            return;
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    })
}

fn start(backend: &Backend, client: &str) -> Proxy {
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nclient: {client}\nthreads: 2\n\
         routes: [{{heartbeat: {{interval: 0}}, timeouts: {{write: 500ms}}}}]\n",
        backend.address
    );
    Proxy::start_listening("{address: 127.0.0.1:0, h2c: true}", &config)
}

fn closed(proxy: &Proxy, reason: &str, count: f64) {
    let name = format!("sse_proxy_closed_connections_total{{reason=\"{reason}\"}}");
    eventually(&name, || (proxy.metric(&name) == Some(count)).then_some(()));
}

/// Invariant: the work for a client is bounded by what is served to it. Mechanism: control frames were read and
/// answered without a limit. Symptom: one connection took a core, and events of all others on its thread were late by
/// 600 ms.
#[test]
fn a_flood_of_control_frames_closes_the_connection() {
    let backend = backend();
    let proxy = start(&backend, "{}");
    let floods: [(&str, Vec<u8>); 6] = [
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("PING ack", frame(PING, ACK, 0, &[0; 8])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 0])),
        ("unknown", frame(0x42, 0, 0, &[0; 3])),
    ];
    for (at, (name, frame)) in floods.iter().enumerate() {
        let mut client = Raw::connect(&proxy);
        client.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let batch = frame.repeat(500);
        let mut sender = client.socket.try_clone().unwrap();
        let sending = std::thread::spawn(move || (0..2_000).take_while(|_| sender.write_all(&batch).is_ok()).count());
        // A reset may overtake the GOAWAY.
        if let Some(code) = client.goaway() {
            assert_eq!(code, 11, "{name}: ENHANCE_YOUR_CALM");
        }
        let _ = client.socket.shutdown(std::net::Shutdown::Both);
        let sent = sending.join().unwrap();
        assert!(sent < 2_000, "{name}: a million frames passed");
        closed(&proxy, "http2_flood", (at + 1) as f64);
    }
}

/// Invariant: a connection without streams is closed after `client.timeouts.keepalive`. Symptom: 23 KiB and a
/// descriptor for each, without a limit.
#[test]
fn a_connection_without_streams_is_closed_with_goaway() {
    let backend = backend();
    let proxy = start(&backend, "{timeouts: {keepalive: 400ms}}");
    let since = Instant::now();
    let mut never = Raw::connect(&proxy);
    let mut once = Raw::connect(&proxy);
    once.send(&frame(1, 5, 1, REQUEST));
    backend.request();
    while once.next().is_some_and(|(kind, ..)| kind != 0) {}
    std::thread::sleep(Duration::from_millis(900));
    // It has had a stream all that time.
    assert!(once.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])));
    for client in [&mut never, &mut once] {
        let mut got_goaway = false;
        while let Some((kind, flags, _, payload)) = client.next() {
            got_goaway |= kind == GOAWAY;
            // What a graceful end waits for.
            if kind == PING && flags & ACK == 0 {
                client.send(&frame(PING, ACK, 0, &payload));
            }
        }
        assert!(got_goaway, "GOAWAY");
    }
    assert!(since.elapsed() > Duration::from_millis(1300), "{:?}", since.elapsed());
    closed(&proxy, "http2_idle", 2.0);
}

#[test]
fn a_client_that_ignores_goaway_is_closed() {
    let backend = backend();
    let proxy = start(&backend, "{timeouts: {keepalive: 200ms}}");
    let mut client = Raw::connect(&proxy);
    assert_eq!(client.goaway(), Some(0));
}

/// Invariant: a vanished peer is detected, whatever its streams do. Symptom: the connection stayed open for the
/// kernel's two hours.
#[test]
fn a_silent_client_gets_a_ping_and_is_closed_without_a_pong() {
    let backend = backend();
    let proxy = start(&backend, "{timeouts: {ping: 200ms}}");
    let mut clients = [Raw::connect(&proxy), Raw::connect(&proxy)];
    for client in &mut clients {
        client.send(&frame(1, 5, 1, REQUEST));
        backend.request();
    }
    let [here, vanished] = &mut clients;
    // One client answers the PING, and its stream stays open; the other does not.
    let until = Instant::now() + Duration::from_millis(1500);
    let mut answered = 0;
    while Instant::now() < until {
        let Some((kind, flags, _, payload)) = here.next() else { panic!("closed after {answered} answers") };
        if kind == PING && flags & ACK == 0 {
            answered += 1;
            here.send(&frame(PING, ACK, 0, &payload));
        }
    }
    assert!(answered >= 3, "{answered}");
    vanished.goaway();
    closed(&proxy, "http2_vanished", 1.0);
    assert_eq!(proxy.log_line()["end"], "client_gone");
}

/// Invariant: a head ends within `client.timeouts.header`, over HTTP/2 as well. Symptom: HEADERS without END_HEADERS
/// held 24 KiB without a limit.
#[test]
fn an_unfinished_head_or_frame_closes_the_connection() {
    let backend = backend();
    let proxy = start(&backend, "{timeouts: {header: 400ms, body: 400ms, ping: 0}}");
    let whole = frame(1, 5, 1, REQUEST);
    let cases: [(&str, Vec<u8>); 4] = [
        ("no END_HEADERS", frame(1, 1, 1, REQUEST)),
        ("CONTINUATION without end", [frame(1, 1, 1, REQUEST), frame(CONTINUATION, 0, 1, b"\x0f\x01\x01a")].concat()),
        ("half a frame", whole[..20].to_vec()),
        ("half a header", whole[..5].to_vec()),
    ];
    for (at, (name, bytes)) in cases.iter().enumerate() {
        let mut client = Raw::connect(&proxy);
        client.send(bytes);
        let since = Instant::now();
        client.goaway();
        assert!(since.elapsed() > Duration::from_millis(300), "{name}: {:?}", since.elapsed());
        closed(&proxy, "http2_slow", (at + 1) as f64);
    }
    let mut preface = TcpStream::connect(proxy.address).unwrap();
    preface.set_read_timeout(Some(DEADLINE)).unwrap();
    preface.write_all(&PREFACE[..20]).unwrap();
    assert_eq!(preface.read(&mut [0; 64]).unwrap(), 0, "closed without an answer");
}

/// Invariant: an announced body arrives within `client.timeouts.body`. Symptom: a POST over HTTP/2 without DATA held 56
/// KiB and an upstream connection without a limit.
#[test]
fn a_request_without_its_body_is_answered_with_408() {
    let backend = Backend::start(|connection| connection.hang());
    let proxy = start(&backend, "{timeouts: {body: 300ms}}");
    let mut client = Raw::connect(&proxy);
    client.send(&frame(1, 4, 1, REQUEST));
    loop {
        let Some((kind, _, stream, payload)) = client.next() else { panic!("closed") };
        if kind == 1 && stream == 1 {
            // `:status: 408` is no entry of the static table: its name is, then three digits, plain or by Huffman.
            let has = |wanted: &[u8]| payload.windows(wanted.len()).any(|window| window == wanted);
            assert!(has(b"408") || has(b"\x82\x68\x1f") || has(b"\x83\x68\x0f"), "{payload:x?}");
            return;
        }
    }
}

/// Invariant: a connection that the proxy closes is told why, counted and logged. Mechanism: after 32 malformed requests the
/// connection was dropped. Symptom: the streams of the connection ended without a reason.
#[test]
fn malformed_requests_are_counted_and_close_the_connection_with_goaway() {
    let backend = backend();
    let proxy = start(&backend, "{}");
    let mut client = Raw::connect(&proxy);
    // Neither `:authority` nor `host`.
    for stream in 0..32 {
        client.send(&frame(1, 5, 2 * stream + 1, b"\x82\x86\x44\x07/events"));
    }
    assert_eq!(client.goaway(), Some(1), "PROTOCOL_ERROR");
    closed(&proxy, "http2_malformed", 1.0);
    assert_eq!(proxy.metric("sse_proxy_refused_total{reason=\"http2_malformed\"}"), Some(32.0));
    eventually("a line in the log", || proxy.stderr().contains("reason=http2_malformed").then_some(()));
}

/// Invariant: a host is checked by the same rule over HTTP/2. Mechanism: `Host` without `:authority` was not checked.
/// Symptom: `Host: a b` reached the backend.
#[test]
fn a_malformed_host_is_refused() {
    let backend = backend();
    let proxy = start(&backend, "{}");
    for host in [&b"a b"[..], b"a/b", b"a:b", b":80", b"[::1"] {
        // With the name of the static table.
        let field = [&b"\x0f\x17"[..], &[u8::try_from(host.len()).unwrap()], host].concat();
        let mut client = Raw::connect(&proxy);
        client.send(&frame(1, 5, 1, &[&b"\x82\x86\x44\x07/events"[..], &field].concat()));
        let head = loop {
            match client.next() {
                Some((1, _, 1, payload)) => break payload,
                Some((3, _, 1, code)) => panic!("{}: reset with {code:?}", host.escape_ascii()),
                Some(_) => {}
                None => panic!("{}: closed", host.escape_ascii()),
            }
        };
        // Of the static table.
        assert_eq!(head[0], 0x8c, "{}: 400 is the first field of {head:x?}", host.escape_ascii());
    }
}

/// 100 MB over one stream; `wire/frames.rs` has what clients send that update their windows in small steps.
#[test]
fn heavy_legitimate_use_is_not_limited() {
    let backend = backend();
    let certificate = Certificate::new();
    let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    let listener = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
    let proxy = Proxy::start_listening(&listener, &config);
    let url = format!("https://localhost:{}", proxy.address.port());
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--http2", "--max-time", "120", "--output", "/dev/null"])
        .args(["--write-out", "%{http_version} %{size_download}", &format!("{url}/download")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("2 {}", 100 << 20), "{output:?}");
    let flood = "sse_proxy_closed_connections_total{reason=\"http2_flood\"}";
    assert_eq!(proxy.metric(flood), Some(0.0));
}
