//! Listeners whose addresses overlap: `[::]`, which accepts IPv4 clients as well, and one address beside all addresses.

use std::process::Command;

use socket2::{Domain, Socket, Type};

use crate::support::{Backend, Certificate, Client, Proxy, UNTIL_CLOSE};

/// Invariant: a client's address has one form on every listener. Mechanism: the kernel reports an IPv4 client of a
/// dual-stack listener as `::ffff:127.0.0.1`. Symptom: backends and log readers did not recognise it.
#[test]
fn an_ipv4_client_is_reported_with_its_ipv4_address() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let certificate = Certificate::new();
    let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    let forwarded = || {
        let head = backend.request().to_lowercase();
        head.lines().find_map(|line| line.strip_prefix("x-forwarded-for: ").map(str::to_owned)).unwrap()
    };
    for (driver, keys) in [
        ("parked", String::new()),
        ("task", String::new()),
        ("parked", ", h2c: true".to_owned()),
        ("parked", format!(", tls: {}", certificate.yaml())),
    ] {
        let proxy = Proxy::start_on(driver, &[], &format!("{{address: '[::]:0'{keys}}}"), &config);
        let port = proxy.address.port();
        let arguments: &[&[&str]] = match keys.as_str() {
            "" => &[&["--http1.1"]],
            ", h2c: true" => &[&["--http1.1"], &["--http2-prior-knowledge"]],
            _ => &[&["--http1.1"], &["--http2"]],
        };
        let scheme = if keys.contains("tls") { "https" } else { "http" };
        for (arguments, accept) in
            arguments.iter().flat_map(|arguments| ["text/html", "text/event-stream"].map(|accept| (arguments, accept)))
        {
            let output = Command::new("curl")
                .args(["-sk", "--max-time", "20", "-H", &format!("Accept: {accept}")])
                .args(*arguments)
                .arg(format!("{scheme}://127.0.0.1:{port}/"))
                .output()
                .unwrap();
            assert_eq!(output.stdout, b"data: a\n\n", "{driver} {keys} {arguments:?} {accept}");
            assert_eq!(forwarded(), "127.0.0.1", "{driver} {keys} {arguments:?} {accept}");
            if accept == "text/event-stream" {
                let client = proxy.log_line()["client"].as_str().unwrap().to_owned();
                assert!(client.starts_with("127.0.0.1:"), "{driver} {keys} {arguments:?}: {client}");
            }
        }
        if scheme == "http" {
            let mut client = Client::connect(format!("[::1]:{port}").parse().unwrap());
            client.send("GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
            assert_eq!(client.read_head().status, 200);
            assert_eq!(forwarded(), "::1");
            assert!(proxy.log_line()["client"].as_str().unwrap().starts_with("[::1]:"));
        }
    }
}

/// Invariant: a connection belongs to the listener of its address. Mechanism: only listeners with TLS were looked up, so that one
/// on all addresses took the connections of a plain one on the same port. Symptom: a plain client waited for a handshake.
#[test]
fn a_plain_listener_of_one_address_stands_beside_a_tls_listener_of_all() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let certificate = Certificate::new();
    let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    for driver in ["parked", "task"] {
        // Both need the same port: this socket reserves it, and accepts nothing.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        reserved.set_reuse_port(true).unwrap();
        reserved.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = reserved.local_addr().unwrap().as_socket_ipv4().unwrap().port();
        let listeners = format!(
            "{{address: '127.0.0.1:{port}', reuse_port: true}}, {{address: '0.0.0.0:{port}', reuse_port: true, tls: {}}}",
            certificate.yaml()
        );
        let _proxy = Proxy::start_on(driver, &[], &listeners, &config);
        for url in ["http://127.0.0.1", "https://127.0.0.2"] {
            let output =
                Command::new("curl").args(["-sk", "--max-time", "20"]).arg(format!("{url}:{port}/")).output().unwrap();
            assert_eq!(output.stdout, b"data: a\n\n", "{driver} {url}: {:?}", output.status);
        }
    }
}
