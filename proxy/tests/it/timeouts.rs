//! Connecting to servers, and endless interim responses: tests on the bytes of HTTP/1.1.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

use crate::support::{Backend, DEADLINE, Proxy, UNTIL_CLOSE, eventually};

#[test]
fn a_refused_connection_is_a_502_with_its_cause() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(unused, "");
    let mut client = proxy.stream("/events");
    let head = client.read_head();
    assert_eq!(head.status, 502);
    assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=connection_refused"));
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.contains("cannot connect to the upstream") && !body.contains(&unused.to_string()), "{body}");
    let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"connect_failed\"}";
    assert_eq!(proxy.metric(metric), Some(1.0));
    eventually("the log says so", || proxy.stderr().contains("side=upstream").then_some(()));
}

#[test]
fn a_server_that_does_not_answer_the_handshake_is_a_504_that_names_connect() {
    // A full accept queue: the kernel silently drops further SYNs.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let queued: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let proxy = Proxy::start(address, "    timeouts: {connect: 300ms}");
    let mut client = proxy.stream("/events");
    assert_eq!(client.read_head().status, 504);
    let body = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(body.contains("timeouts.connect"), "{body}");
    drop(queued);
}

#[test]
fn another_server_is_tried_when_one_refuses() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let proxy = Proxy::start_with(&format!("upstreams: {{app: {{servers: ['{unused}', '{}']}}}}\n", backend.address));
    for _ in 0..4 {
        let mut client = proxy.stream("/events");
        assert_eq!(client.read_head().status, 200);
        client.read_until_body_has("data: a\n\n");
    }
}

/// Invariant: deadlines fire whatever else happens. Mechanism: available heads were read before the timer was checked,
/// and there was always another. Symptom: the request never ended, and its client kept reading interim responses.
#[test]
fn endless_interim_responses_do_not_postpone_the_first_byte_timeout() {
    let backend = Backend::start(|mut connection| {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10_000);
        while connection.socket.write_all(interim.as_bytes()).is_ok() {}
    });
    let proxy = Proxy::start(backend.address, "    timeouts: {first_byte: 300ms}");
    let mut client = proxy.stream("/events");
    let (until, mut buffer, mut last) = (Instant::now() + DEADLINE / 2, vec![0; 1 << 16], 1);
    while last > 0 {
        assert!(Instant::now() < until, "interim responses still arrive");
        last = client.socket.read(&mut buffer).unwrap();
    }
    let metric = "sse_proxy_upstream_failures_total{route=\"/\",reason=\"first_byte_timeout\"}";
    assert_eq!(proxy.metric(metric), Some(1.0));
}
