//! The log on standard error: it blocks nothing, is rate-limited for each cause, and contains no queries.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::support::{Backend, CHUNKED, Certificate, Proxy, chunk, eventually, free_address};

/// Connections to a TLS port that send something else.
fn junk(address: SocketAddr, count: usize) {
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"this is no client hello, whatever it may be\n").unwrap();
    }
}

fn page(proxy: &Proxy, path: &str) -> u16 {
    let mut client = proxy.connect();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    client.read_head().status
}

/// Invariant: a stuck log stalls neither requests nor signals. Mechanism: logging wrote to standard error and blocked
/// on its reader. Symptom: with a stuck reader, junk on the TLS port stopped every thread and the shutdown.
#[test]
fn a_log_that_is_not_read_stalls_neither_requests_nor_the_shutdown() {
    let certificate = Certificate::new();
    let backend = Backend::start(|mut connection| {
        if connection.path() == "/page" {
            return connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npage");
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.send(chunk(b"data: half"));
        connection.hang();
    });
    for signals in [1, 2] {
        let tls = free_address("127.83.70.1");
        let listeners = format!("{{address: '127.0.0.1:0'}}, {{address: '{tls}', tls: {}}}", certificate.yaml());
        // All that happens is logged, with a limit for nothing but warnings.
        let drain = if signals == 1 { "300ms" } else { "60s" };
        let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\ndrain: {{timeout: {drain}}}\n", backend.address);
        let mut proxy = Proxy::start_in(&[("SSE_PROXY_LOG", "trace")], &listeners, &config);
        proxy.read_stderr(false);
        junk(tls, 3000);
        eventually("lines are dropped", || {
            assert_eq!(page(&proxy, "/page"), 200);
            proxy.metric("sse_proxy_log_dropped_lines_total").filter(|dropped| *dropped > 0.0)
        });
        let mut stream = proxy.stream("/events");
        stream.read_head();
        stream.read_until_body_has("data: half");
        if signals == 1 {
            proxy.read_stderr(true);
            eventually("the count of what was dropped", || {
                let log = proxy.stderr();
                let (_, count) = log.split_once("log lines dropped: side=internal count=")?;
                count.split_once('\n').map(|(count, _)| assert!(count.parse::<u64>().unwrap() > 0, "{count}"))
            });
            proxy.read_stderr(false);
            junk(tls, 3000);
        }
        proxy.terminate();
        if signals == 2 {
            // Two signals at once would count as one.
            eventually("the drain", || (proxy.admin_status("/readyz") == Some(503)).then_some(()));
            proxy.terminate();
        }
        assert_eq!(proxy.exited().code(), Some(0), "{signals} signals");
    }
}

/// Invariant: peers cannot flood the log or write secrets into it. Mechanism: each failing request and each failed
/// handshake logged a line. Symptom: full disks, and tokens from query strings in log archives.
#[test]
fn errors_caused_by_peers_are_rate_limited_with_a_count() {
    let certificate = Certificate::new();
    let dead = free_address("127.83.70.2");
    let tls = free_address("127.83.70.3");
    let listeners = format!("{{address: '127.0.0.1:0'}}, {{address: '{tls}', tls: {}}}", certificate.yaml());
    let proxy = Proxy::start_listening(
        &listeners,
        &format!(
            "upstreams: {{app: {{servers: ['{dead}']}}, nowhere: {{servers: ['no-such-name.invalid:80']}}}}\nroutes:\n\
             \x20 - {{match: {{path_prefix: /a}}, upstream: app}}\n  - {{match: {{path_prefix: /b}}, upstream: app}}\n\
             \x20 - {{match: {{path_prefix: /c}}, upstream: nowhere}}\n"
        ),
    );
    for _ in 0..50 {
        for path in ["/a?token=secret", "/b?token=secret", "/c?token=secret"] {
            assert_eq!(proxy.stream(path).read_head().status, 502);
            assert_eq!(page(&proxy, path), 502);
        }
    }
    junk(tls, 200);
    // The first of each at once.
    let of_route = |log: &str, route: &str| log.matches(&format!("side=upstream route={route} reason=")).count();
    eventually("a line for each cause", || {
        let log = proxy.stderr();
        let all = ["/a", "/b", "/c"].map(|route| of_route(&log, route));
        (all == [1, 1, 1] && log.contains("TLS handshake failed")).then_some(())
    });
    // The last of each at the interval's end.
    eventually("the count of the others", || (proxy.stderr().matches(" suppressed=98").count() == 3).then_some(()));
    let log = proxy.stderr();
    assert!(log.contains("name resolution failed: side=upstream server=no-such-name.invalid: "), "{log}");
    assert!(!log.contains("secret"), "{log}");
    assert!(log.lines().count() < 40, "{log}");
}

/// Invariant: a client with the wrong scheme is reported with a remedy, whatever else fails meanwhile. Mechanism: the message about
/// the first bytes had neither, and shared its limit with all other failed handshakes. Symptom: nothing in the log, or
/// `received corrupt message of type InvalidContentType`.
#[test]
fn a_client_with_the_wrong_scheme_is_reported_with_a_remedy() {
    let backend = Backend::answering(vec![]);
    let certificate = Certificate::new();
    let upstreams = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    let tls = Proxy::start_listening(&format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml()), &upstreams);
    // Another failed handshake, within the same ten seconds.
    let client = std::net::TcpStream::connect(tls.address).unwrap();
    let reported = format!("reason=tls_handshake: client {}: ", client.local_addr().unwrap());
    drop(client);
    eventually("the first failure is logged", || tls.stderr().contains("tls handshake eof").then_some(()));
    assert!(tls.stderr().contains(&reported), "{reported}");
    tls.connect().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("plain HTTP is reported", || {
        let log = tls.stderr();
        (log.contains("reason=plain_on_tls_port") && log.contains("use https:// there")).then_some(())
    });
    for driver in ["parked", "task"] {
        let plain = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &upstreams);
        let mut client = plain.connect();
        client.try_send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
        assert_eq!(client.read_head().status, 400, "{driver}");
        eventually("TLS is reported", || {
            let log = plain.stderr();
            (log.contains("reason=tls_on_plain_port") && log.contains("add tls to the listener")).then_some(())
        });
    }
}
