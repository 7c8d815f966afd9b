//! nginx with the shipped files in front of the proxy.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Front, carries, curl, proxy, shipped_nginx};
use crate::support::{Backend, CHUNKED, Proxy, chunk};

fn tls(proxy: &Proxy) -> Front {
    shipped_nginx("front-tls.conf", proxy.address)
}

#[test]
fn events_pass_nginx_one_by_one_over_tls() {
    for version in ["2", "1.1"] {
        let (backend, step) = carries::stepped();
        let proxy = proxy(backend.address);
        carries::one_by_one(&tls(&proxy).https(), step, version);
        assert_eq!(proxy.log_line()["end"], "upstream_end");
    }
}

#[test]
fn events_pass_nginx_one_by_one_without_tls() {
    for (name, through_proxy) in [("front.conf", true), ("baseline.conf", false)] {
        let (backend, step) = carries::stepped();
        let proxy = proxy(backend.address);
        let front = shipped_nginx(name, if through_proxy { proxy.address } else { backend.address });
        carries::one_by_one(&format!("http://{}", front.address), step, "1.1");
    }
}

#[test]
fn a_hundred_streams_over_one_connection_through_nginx_get_heartbeats_and_disconnects_are_detected() {
    carries::heartbeats_and_leaving(tls, 100);
}

#[test]
fn a_client_cannot_forge_its_address_through_nginx() {
    let backend = Backend::answering(vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_vec(),
    ]);
    let proxy = proxy(backend.address);
    carries::the_real_client(&tls(&proxy).https(), &backend);
}

#[test]
fn a_websocket_passes_nginx_and_the_proxy() {
    carries::a_websocket(tls);
}

#[test]
fn a_refusal_of_the_proxy_is_what_a_client_of_nginx_reads() {
    carries::a_refusal(tls);
}

#[test]
fn a_broken_end_is_an_error_through_nginx() {
    carries::a_broken_end(tls, &["--http1.1", "--http2"]);
}

#[test]
fn a_drain_is_a_clean_end_through_nginx() {
    carries::a_drain(tls);
}

/// Answers request after request with the number of its connection.
fn numbered() -> Backend {
    let connections = AtomicUsize::new(0);
    Backend::start(move |mut connection| {
        let number = connections.fetch_add(1, Ordering::Relaxed) + 1;
        loop {
            connection
                .send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n{number}"));
            connection.rest.clear();
            connection.read_until(|rest| rest.ends_with(b"\r\n\r\n"));
            if !connection.rest.ends_with(b"\r\n\r\n") {
                return;
            }
        }
    })
}

#[test]
fn pages_reuse_the_connections_between_nginx_the_proxy_and_the_backend() {
    // A page may be asked for before the connection of the one before is back among the idle ones: two or three in turn.
    let pages_reuse = |front: &Front| {
        let page = |_| curl(&[&format!("http://{}/page", front.address)]).output().unwrap().stdout;
        let connections: BTreeSet<_> = (0..10).map(page).collect();
        assert!(connections.len() <= 3, "ten pages over {} connections", connections.len());
    };
    // nginx keeps its connections,
    let backend = numbered();
    pages_reuse(&shipped_nginx("front.conf", backend.address));
    // and the proxy its own.
    let backend = numbered();
    let proxy = proxy(backend.address);
    pages_reuse(&shipped_nginx("front.conf", proxy.address));
}

#[test]
fn an_upload_of_more_than_a_megabyte_passes_nginx() {
    let backend = Backend::start(|mut connection| {
        connection.read_until(|rest| rest.len() >= 3_000_000);
        let length = connection.rest.len();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{length}"));
    });
    let proxy = proxy(backend.address);
    let front = shipped_nginx("front-tls.conf", proxy.address);
    let upload = front.files.path().join("upload");
    std::fs::write(&upload, vec![b'x'; 3_000_000]).unwrap();
    let data = format!("@{}", upload.display());
    let output = curl(&["--data-binary", &data, &format!("{}/upload", front.https())]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3000000");
}

#[test]
fn the_response_to_a_post_streams_through_nginx() {
    let backend = Backend::start(|mut connection| {
        connection.read_until(|rest| rest == b"{}");
        connection.send(CHUNKED);
        connection.send([chunk(b"data: a\n\n"), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat());
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let front = tls(&proxy);
    let output = curl(&["--http2", "--data", "{}", &format!("{}/v1/chat", front.https())]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "data: a\n\ndata: [DONE]\n\n");
}
