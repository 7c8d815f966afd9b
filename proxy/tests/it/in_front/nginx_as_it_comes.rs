//! What the shipped files prevent: nginx with only `proxy_pass` buffers events and cuts silent streams; and what the
//! proxy alone changes about that.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::{Front, carries, curl, free, nginx, proxy, shipped_nginx};
use crate::support::{Backend, Client, chunk};

/// nginx at its defaults in front of `upstream`, with `more` in its location.
fn default_nginx(upstream: SocketAddr, more: &str) -> Front {
    let files = tempfile::tempdir().unwrap();
    let address = free();
    let text = format!(
        "error_log stderr;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
         fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{ listen {address}; location / {{ proxy_pass http://{upstream}; {more} }} }} }}\n"
    );
    nginx(&text, address, files)
}

fn request(front: &Front) -> Client {
    let mut client = Client::connect(front.address);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    client
}

/// As it answers the HTTP/1.0 that nginx speaks by default.
const UNTIL_CLOSE: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

#[test]
fn default_nginx_buffers_events_until_the_stream_ends() {
    let (more, wanted) = channel::<()>();
    let wanted = std::sync::Mutex::new(wanted);
    let (sent, sending) = channel();
    let sent = std::sync::Mutex::new(sent);
    let backend = Backend::start(move |mut connection| {
        connection.send(UNTIL_CLOSE);
        connection.send("data: a\n\ndata: b\n\ndata: c\n\n");
        sent.lock().unwrap().send(()).unwrap();
        let _ = wanted.lock().unwrap().recv_timeout(crate::support::DEADLINE);
    });
    let front = default_nginx(backend.address, "");
    let mut client = request(&front);
    sending.recv_timeout(crate::support::DEADLINE).unwrap();
    client.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut byte = [0];
    let held = client.socket.peek(&mut byte).expect_err("not even the head has come");
    assert_eq!(held.kind(), std::io::ErrorKind::WouldBlock, "{held}");
    client.socket.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    drop(more);
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_until_body_has("data: c\n\n"), "data: a\n\ndata: b\n\ndata: c\n\n");
}

#[test]
fn the_proxys_headers_disable_buffering_in_default_nginx() {
    let (backend, step) = carries::stepped();
    let proxy = proxy(backend.address);
    let front = default_nginx(proxy.address, "");
    carries::one_by_one(&format!("http://{}", front.address), step, "1.1");
}

/// An event, then silence for longer than the read timeout of these tests, then another.
fn silent_between_two() -> Backend {
    Backend::start(|mut connection| {
        connection.send(crate::support::CHUNKED.replace("\r\n\r\n", "\r\nX-Accel-Buffering: no\r\n\r\n"));
        connection.send(chunk(b"data: a\n\n"));
        std::thread::sleep(Duration::from_millis(2500));
        connection.send(chunk(b"data: b\n\n"));
        connection.send("0\r\n\r\n");
    })
}

/// The body of a stream through `front`, and whether it was complete.
fn stream(front: &Front) -> (String, bool) {
    let url = format!("http://{}/events", front.address);
    let output = curl(&["--header", "Accept: text/event-stream", &url]).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

// The default of 60 s, shortened.
const SHORT: &str = "proxy_http_version 1.1; proxy_read_timeout 1s;";

#[test]
fn default_nginx_cuts_a_silent_stream() {
    let backend = silent_between_two();
    let front = default_nginx(backend.address, SHORT);
    assert_eq!(stream(&front), ("data: a\n\n".to_owned(), false));
}

#[test]
fn heartbeats_keep_a_silent_stream_open_through_default_nginx() {
    let backend = silent_between_two();
    let proxy = proxy(backend.address);
    let front = default_nginx(proxy.address, SHORT);
    let (body, complete) = stream(&front);
    assert!(complete, "{body:?}");
    assert_eq!(body.replace(":\n\n", ""), "data: a\n\ndata: b\n\n");
}

#[test]
fn the_baseline_waits_for_a_silent_stream() {
    let backend = silent_between_two();
    assert_eq!(stream(&shipped_nginx("baseline.conf", backend.address)), ("data: a\n\ndata: b\n\n".to_owned(), true));
}
