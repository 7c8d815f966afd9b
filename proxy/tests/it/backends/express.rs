//! Express: its compression, and the client's address behind two proxies.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::example::Pace;
use super::{HEARTBEAT, Paths, ids, open};
use crate::support::{Client, contains};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// Compression would disable heartbeats and need `res.flush()` for every event. The proxy requests streams without it.
#[test]
fn streams_through_the_proxy_are_not_compressed() {
    let Some(paths) = Paths::to("express", Pace { interval_ms: 150, count: 3 }) else { return };
    let request = format!("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n{GZIP}\r\n");
    let mut direct = Client::connect(paths.backend.address);
    direct.send(&request);
    assert_eq!(direct.read_head().header("content-encoding").as_deref(), Some("gzip"), "the middleware is at work");
    for (path, address) in paths.each() {
        let mut client = Client::connect(address);
        client.send(&request);
        assert_eq!(client.read_head().header("content-encoding"), None, "{path}");
        let mut client = open(address, "/events", GZIP);
        let body = client.read_until_body_has("\"number\":3}\n\n");
        assert!(body.contains(HEARTBEAT), "{path}: {body:?}");
        assert_eq!(ids(&body), [1, 2, 3], "{path}");
    }
}

#[test]
fn it_sees_the_browsers_address_through_nginx_and_the_proxy_despite_forged_fields() {
    let Some(paths) = Paths::to("express", Pace::ENDLESS) else { return };
    let browser: IpAddr = "127.83.69.77".parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(browser, 0).into()).unwrap();
    socket.connect(&paths.front.into()).unwrap();
    let mut client = Client::over(socket.into());
    let request = "GET /ip HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    client.socket.write_all(request.as_bytes()).unwrap();
    let head = client.read_head();
    assert_eq!(head.status, 200, "{head:?}");
    client.read_until(|bytes| contains(bytes, format!("\"{browser}\"").as_bytes()));
}
