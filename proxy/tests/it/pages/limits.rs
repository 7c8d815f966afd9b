//! Time limits of pages, and the memory that a slow client takes.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::{Front, PROTOCOLS, Protocol};
use crate::support::{Backend, Client, DEADLINE, Proxy, eventually};

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
