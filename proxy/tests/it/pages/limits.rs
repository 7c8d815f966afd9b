//! Time limits of pages, and the memory that a slow client takes.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::{Front, Protocol, for_each_protocol};
use crate::support::{Backend, Client, DEADLINE, Proxy, eventually};

/// Invariant: the proxy closes connections without progress. Mechanism: pages had no time limits. Symptom: 50 clients
/// that read nothing held 100 descriptors and 630 to 760 KiB of memory each, without a limit.
#[test]
fn a_client_that_does_not_read_a_page_times_out_and_takes_little_memory() {
    const CLIENTS: usize = 50;
    let (started, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (starts, ends) = (started.clone(), ended.clone());
    let backend = Backend::start(move |mut connection| {
        starts.fetch_add(1, Ordering::SeqCst);
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while connection.try_send([b'x'; 1 << 16]) {}
        ends.fetch_add(1, Ordering::SeqCst);
    });
    let wait_for = |what: &str, count: &AtomicUsize, wanted: usize| {
        eventually(what, || (count.load(Ordering::SeqCst) >= wanted).then_some(()));
    };
    for protocol in [Protocol::Http1, Protocol::Tls] {
        let servers = format!("'{}'", backend.address);
        let begun = started.load(Ordering::SeqCst);
        // The memory that they take while they may.
        let front = Front::start(protocol, &servers, "{stream: never, timeouts: {write: 10m}}");
        let before = resident_kib(front.proxy.pid());
        let stalled: Vec<_> = (0..CLIENTS).map(|_| Stalled::start(&front)).collect();
        wait_for("all have begun", &started, begun + CLIENTS);
        std::thread::sleep(Duration::from_millis(500));
        let each = resident_kib(front.proxy.pid()).saturating_sub(before) / CLIENTS as u64;
        eprintln!("{protocol:?}: {each} KiB of the process for each client that reads nothing");
        // With what the first connections of a process take, spread over these.
        let bound = if protocol == Protocol::Http1 { 250 } else { 500 };
        assert!(each < bound, "{protocol:?}: {each} KiB for each");
        drop(stalled);
        wait_for("all have been closed by their clients", &ended, begun + CLIENTS);

        // And the limit on it.
        let front = Front::start(protocol, &servers, "{stream: never, timeouts: {write: 500ms}}");
        let stalled: Vec<_> = (0..3).map(|_| Stalled::start(&front)).collect();
        wait_for("all are cut", &ended, begun + CLIENTS + stalled.len());
    }
}

/// A client that reads nothing of its response.
enum Stalled {
    Plain { _connection: Client },
    Curl(std::process::Child),
}

impl Stalled {
    fn start(front: &Front) -> Self {
        if front.protocol == Protocol::Http1 {
            let mut client = Client::connect_small(front.proxy.address);
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            return Self::Plain { _connection: client };
        }
        let url = format!("https://localhost:{}/", front.proxy.address.port());
        let mut child = Command::new("curl");
        child.args(["--silent", "--insecure", "--http1.1", "--limit-rate", "1", &url]);
        child.stdout(std::process::Stdio::null());
        Self::Curl(child.spawn().unwrap())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        if let Self::Curl(child) = self {
            let _ = child.kill();
            let _ = child.wait();
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
    for_each_protocol(|protocol| {
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
    });
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
            let until = Instant::now() + DEADLINE;
            let sending = std::thread::spawn(move || {
                while Instant::now() < until && sender.write_all(b"G").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            assert_eq!(client.read_head().status, 504, "{driver} {mode}");
            assert!(Instant::now() < until, "{driver} {mode}: only once the client has stopped");
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

/// Invariant: `timeouts.write` ends a client that reads nothing, and no other. Mechanism: progress was counted in pieces of 16
/// and 64 KiB, and the kernel reports room for a write only once much has been read. Symptom: a client that read 1 KiB a
/// second was cut.
#[test]
fn a_client_that_reads_a_page_slowly_is_not_cut() {
    let running = Arc::new(AtomicUsize::new(0));
    let counted = running.clone();
    let backend = Backend::start(move |mut connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while connection.socket.write_all(&[b'x'; 1 << 16]).is_ok() {}
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    for protocol in [Protocol::Http1, Protocol::Tls] {
        let route = "{stream: never, timeouts: {write: 1s}}";
        let front = Front::start(protocol, &format!("'{}'", backend.address), route);
        let mut client = match protocol {
            Protocol::Tls => Client::connect_small_tls(front.proxy.address),
            _ => Client::connect_small(front.proxy.address),
        };
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        client.forget();
        let until = Instant::now() + Duration::from_secs(6);
        let mut read = 0;
        while Instant::now() < until {
            read +=
                client.skip_some(512).unwrap_or_else(|error| panic!("{protocol:?}: cut after {read} bytes: {error}"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(running.load(Ordering::SeqCst), 1, "{protocol:?}: cut after {read} bytes");
        // And now it reads nothing.
        eventually("it is cut", || (running.load(Ordering::SeqCst) == 0).then_some(()));
    }
}

/// Invariant: what a client does not take is not read. Mechanism: one read of a response waited for its client. Symptom: 18 KiB
/// more for each client that read nothing.
#[test]
fn the_memory_of_a_client_that_takes_nothing_of_a_page_is_that_of_its_session() {
    const CLIENTS: usize = 150;
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        if connection.path() == "/silent" {
            return connection.hang();
        }
        while connection.socket.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    let each = |path: &str| {
        let limits = "timeouts: {write: 0, read: 0}";
        let proxy = Proxy::start(backend.address, &format!("    stream: never\n    {limits}"));
        let ask = |count: usize| {
            let clients = (0..count).map(|_| {
                let mut client = Client::connect_small(proxy.address);
                client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
                backend.request();
                client
            });
            clients.collect::<Vec<_>>()
        };
        let _warm = ask(20);
        let before = proxy.settled_memory();
        let _clients = ask(CLIENTS);
        proxy.settled_memory().saturating_sub(before) / CLIENTS
    };
    let (silent, flooded) = (each("/silent"), each("/flood"));
    eprintln!("{silent} bytes for each client that waits, {flooded} for each that reads nothing");
    assert!(flooded < silent + 6 * 1024, "{flooded} bytes for each, where a session takes {silent}");
}

/// Invariant: `timeouts.write` ends a client that takes nothing. Mechanism: each byte of its upload counted as progress of its
/// page. Symptom: a client that gave no window and uploaded a byte now and then kept both connections without a limit.
#[test]
fn an_upload_does_not_excuse_a_client_from_taking_its_page() {
    let backend = Backend::start(|mut connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        connection.try_send([b'x'; 100_000]);
        connection.hang();
    });
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: never, timeouts: {{write: 500ms, read: 0}}}}]\n",
        backend.address
    );
    let proxy = Proxy::start_listening("{address: 127.0.0.1:0, h2c: true}", &config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        let (mut requests, connection) =
            builder.initial_window_size(0).handshake::<_, bytes::Bytes>(socket).await.unwrap();
        let driven = tokio::spawn(connection);
        let request = http::Request::post(format!("http://{}/page", proxy.address)).body(()).unwrap();
        let (response, mut body) = requests.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let until = Instant::now() + DEADLINE;
        let cut = loop {
            assert!(Instant::now() < until, "it has never been cut");
            if body.send_data("x".into(), false).is_err() {
                break std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(cut.unwrap(), h2::Reason::INTERNAL_ERROR);
        driven.abort();
    });
}
