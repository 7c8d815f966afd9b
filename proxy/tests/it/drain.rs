//! SIGTERM on HTTP/1.1 connections: what is accepted, what stays open, and what the admin pages say meanwhile.

use std::io::ErrorKind;
use std::net::TcpStream;

use crate::support::{Backend, CHUNKED, Client, Proxy, chunk, eventually};

/// Whether nothing has come on a connection, its end included.
fn is_open_and_silent(client: &Client) -> bool {
    client.socket.set_nonblocking(true).unwrap();
    let peeked = client.socket.peek(&mut [0]);
    client.socket.set_nonblocking(false).unwrap();
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Invariant: a drain can be observed to its end. Mechanism: the admin listener closed with the others. Symptom: health
/// checks were refused as if the process had died, `/readyz` never reported `draining`, and no metric showed how many
/// streams were left.
#[test]
fn a_draining_proxy_reports_it_and_accepts_no_connections() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a"));
        connection.wait_for_test();
        connection.send(chunk(b"\n\n"));
        connection.hang();
    });
    let mut proxy = Proxy::start(backend.address, "");
    assert_eq!(proxy.admin_page("/readyz"), (200, "ready\n".to_owned()));
    // A connection that has been kept open is answered, too.
    let mut kept = proxy.admin_client();
    let mut half = proxy.stream("/events");
    half.read_head();
    half.read_until_body_has("data: a");
    proxy.terminate();
    eventually("the drain shows", || match proxy.admin_page("/readyz") {
        (200, page) => {
            assert_eq!(page, "ready\n");
            None
        }
        page => {
            assert_eq!(page, (503, "draining\n".to_owned()));
            Some(())
        }
    });
    eventually("new connections are refused", || TcpStream::connect(proxy.address).is_err().then_some(()));
    assert_eq!(proxy.admin_page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(proxy.metric("sse_proxy_streams_active{route=\"/\"}"), Some(1.0));
    kept.send("GET /readyz HTTP/1.1\r\nHost: admin\r\n\r\n");
    assert_eq!(kept.read_head().status, 503);
    assert!(is_open_and_silent(&half), "the stream is still open");
    backend.proceed(1);
    half.read_until_body_has("data: a\n\n");
    assert_eq!(proxy.exited().code(), Some(0));
    assert!(TcpStream::connect(proxy.admin).is_err());
}

#[test]
fn a_drain_closes_idle_connections_while_streams_continue() {
    let backend = Backend::start(|mut connection| {
        if connection.path() == "/page" {
            connection.answer("text/plain", "page");
        } else {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: half"));
            connection.wait_for_test();
            connection.send(chunk(b"\n\n"));
        }
        connection.hang();
    });
    let mut proxy = Proxy::start(backend.address, "");
    let mut stream = proxy.stream("/events");
    stream.read_head();
    stream.read_until_body_has("data: half");
    let mut page = proxy.connect();
    page.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(page.read_head().header("connection").as_deref(), Some("keep-alive"));
    page.read_until(|bytes| bytes == b"page");
    proxy.terminate();
    assert_eq!(page.read_to_end().unwrap(), b"page", "and nothing after it");
    assert!(is_open_and_silent(&stream), "the stream has time to end its event");
    backend.proceed(1);
    assert_eq!(proxy.exited().code(), Some(0));
}
