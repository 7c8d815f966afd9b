//! Caddy with the shipped file in front of the proxy.

use super::{Front, carries, certificate, free, program, proxy, replace, root};
use crate::support::{Backend, Proxy};

fn caddy(proxy: &Proxy) -> Front {
    let files = tempfile::tempdir().unwrap();
    certificate(files.path());
    let address = free();
    let shipped = std::fs::read_to_string(root().join("examples/in-front/Caddyfile")).unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let text = replace(
        &shipped,
        &[
            ("\tgrace_period 30s\n", "\tgrace_period 1s\n\tadmin off\n\tauto_https disable_redirects\n"),
            (
                "example.org {\n",
                &format!(
                    "https://localhost:{} {{\n\tbind 127.0.0.1\n\ttls {} {}\n",
                    address.port(),
                    cert.display(),
                    key.display()
                ),
            ),
            ("reverse_proxy 127.0.0.1:8080", &format!("reverse_proxy {}", proxy.address)),
            ("health_port 9090", &format!("health_port {}", proxy.admin.port())),
        ],
    );
    let file = files.path().join("Caddyfile");
    std::fs::write(&file, text).unwrap();
    let mut command = program("caddy");
    command.env("HOME", files.path()).env("XDG_DATA_HOME", files.path()).env("XDG_CONFIG_HOME", files.path());
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    Front::start(&mut command, address, files)
}

#[test]
fn the_shipped_file_is_accepted_as_it_stands() {
    let files = tempfile::tempdir().unwrap();
    let mut command = program("caddy");
    command.env("HOME", files.path()).env("XDG_DATA_HOME", files.path()).env("XDG_CONFIG_HOME", files.path());
    command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(root().join("examples/in-front/Caddyfile"));
    let output = command.output().unwrap_or_else(|error| panic!("caddy: {error}; `make setup` installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn events_pass_caddy_one_by_one() {
    for version in ["2", "1.1"] {
        let (backend, step) = carries::stepped();
        let proxy = proxy(backend.address);
        carries::one_by_one(&caddy(&proxy).https(), step, version);
    }
}

#[test]
fn streams_through_caddy_get_heartbeats_and_disconnects_are_detected() {
    carries::heartbeats_and_leaving(caddy, 50);
}

#[test]
fn a_client_cannot_forge_its_address_through_caddy() {
    let backend = Backend::answering(vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_vec(),
    ]);
    let proxy = proxy(backend.address);
    carries::the_real_client(&caddy(&proxy).https(), &backend);
}

#[test]
fn a_websocket_passes_caddy_and_the_proxy() {
    carries::a_websocket(caddy);
}

#[test]
fn a_refusal_of_the_proxy_is_what_a_client_of_caddy_reads() {
    carries::a_refusal(caddy);
}

#[test]
fn a_broken_end_looks_complete_through_caddy() {
    carries::a_broken_end(caddy, &[]);
}

#[test]
fn a_drain_is_a_clean_end_through_caddy() {
    carries::a_drain(caddy);
}
