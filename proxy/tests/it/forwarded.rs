//! Forwarding fields from trusted and untrusted peers, on every request path.

use std::process::Command;

use crate::support::{Backend, Certificate, Proxy, UNTIL_CLOSE};

/// Forged fields that backends are known to trust.
const CLAIMS: [&str; 12] = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Host: evil.test",
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6;host=evil.test",
    "True-Client-IP: 6.6.6.6",
    "CF-Connecting-IP: 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "x_real-ip: 6.6.6.6",
    "x-FORWARDED_proto: gopher",
];

/// Invariant: forwarding fields are set by the proxy, or by a proxy that the operator trusts. Mechanism: only
/// `X-Forwarded-For` was appended to; every other such field passed as the client sent it. Symptom:
/// `X-Real-IP: 6.6.6.6` from any client became its address, past rate limits and address filters.
#[test]
fn fields_of_untrusted_peers_are_replaced_and_those_of_trusted_proxies_extended() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let certificate = Certificate::new();
    let tls = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
    let config = format!("upstreams: {{app: {{servers: ['{}']}}}}\ntrusted_proxies: [127.0.0.7/32]\n", backend.address);
    for (driver, listener, scheme, options) in [
        ("parked", "{address: 127.0.0.1:0}", "http", &["--http1.1"][..]),
        ("task", "{address: 127.0.0.1:0}", "http", &["--http1.1"]),
        ("parked", "{address: 127.0.0.1:0, h2c: true}", "http", &["--http2-prior-knowledge"]),
        ("parked", tls.as_str(), "https", &["--http1.1"]),
        ("parked", tls.as_str(), "https", &["--http2"]),
    ] {
        let proxy = Proxy::start_on(driver, &[], listener, &config);
        let host = format!("localhost:{}", proxy.address.port());
        for accept in ["text/event-stream", "text/html"] {
            for (peer, trusted) in [("127.0.0.7", true), ("127.0.0.9", false)] {
                let what = format!("{driver} {listener} {options:?} {accept} from {peer}");
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--insecure", "--max-time", "20", "--output", "/dev/null"]);
                curl.args(["--ipv4", "--interface", peer, "--header", &format!("Accept: {accept}")]);
                curl.args(options).args(CLAIMS.iter().flat_map(|claim| ["--header", claim]));
                let output = curl.arg(format!("{scheme}://{host}/events")).output().unwrap();
                assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));

                let request = backend.request().to_lowercase();
                let has = |line: &str| request.lines().any(|other| other == line);
                let wanted = match trusted {
                    true => vec![
                        format!("x-forwarded-for: 6.6.6.6, {peer}"),
                        "x-forwarded-proto: gopher".to_owned(),
                        "x-forwarded-host: evil.test".to_owned(),
                        "x-forwarded-port: 666".to_owned(),
                        "x-forwarded-prefix: /evil".to_owned(),
                        "x-real-ip: 6.6.6.6".to_owned(),
                        format!("forwarded: for=6.6.6.6;host=evil.test, for={peer};proto={scheme};host=\"{host}\""),
                        "true-client-ip: 6.6.6.6".to_owned(),
                        "cf-connecting-ip: 6.6.6.6".to_owned(),
                    ],
                    false => vec![
                        format!("x-forwarded-for: {peer}"),
                        format!("x-forwarded-proto: {scheme}"),
                        format!("x-forwarded-host: {host}"),
                        format!("x-forwarded-port: {}", proxy.address.port()),
                        format!("x-real-ip: {peer}"),
                        format!("forwarded: for={peer};proto={scheme};host=\"{host}\""),
                    ],
                };
                for line in wanted {
                    assert!(has(&line), "{what}: no {line:?} in {request}");
                }
                assert!(!request.contains("x_") && !request.contains("d_proto"), "{what}: {request}");
                assert!(
                    trusted || !["6.6.6.6", "evil", "gopher"].iter().any(|lie| request.contains(lie)),
                    "{what}: {request}"
                );
            }
        }
    }
}

/// A proxy on the same host needs no configuration; one on another address does.
#[test]
fn only_this_host_is_trusted_by_default() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let upstreams = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    for (trusted, trusts_peer) in
        [("", true), ("trusted_proxies: []\n", false), ("trusted_proxies: ['10.0.0.0/8']\n", false)]
    {
        let proxy = Proxy::start_with(&format!("{trusted}{upstreams}"));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nX-Forwarded-Proto: https\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        let request = backend.request().to_lowercase();
        assert_eq!(request.contains("x-forwarded-proto: https\r\n"), trusts_peer, "{trusted:?}: {request}");
    }
}
