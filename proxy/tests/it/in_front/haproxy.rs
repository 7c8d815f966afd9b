//! HAProxy with the shipped file in front of the proxy.

use super::{Front, carries, certificate, free, program, proxy, replace, root};
use crate::support::{Backend, Proxy};

fn haproxy(proxy: &Proxy) -> Front {
    let files = tempfile::tempdir().unwrap();
    certificate(files.path());
    let address = free();
    let shipped = std::fs::read_to_string(root().join("examples/in-front/haproxy.cfg")).unwrap();
    let text = replace(
        &shipped,
        &[
            ("bind :443 ", &format!("bind {address} ")),
            ("/etc/haproxy/site.pem", &files.path().join("both.pem").display().to_string()),
            ("127.0.0.1:8080 check port 9090", &format!("{} check port {}", proxy.address, proxy.admin.port())),
            // As many as this machine may give.
            ("maxconn 20000", "maxconn 2000"),
        ],
    );
    let file = files.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let checked = program("haproxy").args(["-c", "-f"]).arg(&file).output();
    let checked = checked.unwrap_or_else(|error| panic!("haproxy: {error}; `make setup` installs it"));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    Front::start(program("haproxy").arg("-db").arg("-f").arg(&file), address, files)
}

#[test]
fn the_shipped_file_is_accepted_as_it_stands() {
    let files = tempfile::tempdir().unwrap();
    certificate(files.path());
    let shipped = std::fs::read_to_string(root().join("examples/in-front/haproxy.cfg")).unwrap();
    let text = replace(&shipped, &[("/etc/haproxy/site.pem", &files.path().join("both.pem").display().to_string())]);
    let file = files.path().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let output = program("haproxy").args(["-c", "-f"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn events_pass_haproxy_one_by_one() {
    for version in ["2", "1.1"] {
        let (backend, step) = carries::stepped();
        let proxy = proxy(backend.address);
        carries::one_by_one(&haproxy(&proxy).https(), step, version);
    }
}

#[test]
fn streams_through_haproxy_get_heartbeats_and_disconnects_are_detected() {
    carries::heartbeats_and_leaving(haproxy, 50);
}

#[test]
fn a_client_cannot_forge_its_address_through_haproxy() {
    let backend = Backend::answering(vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_vec(),
    ]);
    let proxy = proxy(backend.address);
    carries::the_real_client(&haproxy(&proxy).https(), &backend);
}

#[test]
fn a_websocket_passes_haproxy_and_the_proxy() {
    carries::a_websocket(haproxy);
}

#[test]
fn a_refusal_of_the_proxy_is_what_a_client_of_haproxy_reads() {
    carries::a_refusal(haproxy);
}

#[test]
fn a_broken_end_is_an_error_through_haproxy() {
    carries::a_broken_end(haproxy, &["--http1.1"]);
}

#[test]
fn a_drain_is_a_clean_end_through_haproxy() {
    carries::a_drain(haproxy);
}
