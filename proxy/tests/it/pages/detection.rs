//! Which responses are streams, and which request a response belongs to.

use crate::support::{Backend, Proxy};

/// Invariant: every event stream is served as one. Mechanism: an offer of HTTP/2, a status of 201, the coding `none`
/// and a list of media types each disabled streaming. Symptom: no heartbeats, no time limits, no counts.
#[test]
fn streams_with_unusual_heads_are_detected() {
    let heads = [
        "HTTP/1.1 201 Created\r\nContent-Type: text/event-stream\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream, text/plain\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: \r\nContent-Type: text/event-stream\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: none\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: \r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity, identity\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: identity\r\n",
    ];
    let requests = [
        "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    ];
    let backend = Backend::start(move |mut connection| {
        let request = connection.head.to_lowercase();
        assert!(!request.contains("upgrade") && !request.contains("http2-settings"), "{request}");
        let at: usize = connection.path()[1..].parse().unwrap();
        connection.send(format!("{}\r\ndata: a\n\n", heads[at]));
        connection.hang();
    });
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{heartbeat: {{interval: 50ms}}}}]\n",
        backend.address
    );
    for driver in ["parked", "task"] {
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
        for (at, head) in heads.iter().enumerate() {
            for request in requests {
                let mut client = proxy.connect();
                client.send(&request.replacen("GET /", &format!("GET /{at}"), 1));
                client.read_head();
                client.read_until_body_has("data: a\n\n:\n\n");
                drop(client);
                assert_eq!(proxy.log_line()["events"], 1, "{driver} {head} {request}");
            }
        }
    }
}

/// A backend that has nothing to say to a stream's request but an error, and a route for streams only: both are answered on the
/// connection, and what came before for one request is not given to the next.
#[test]
fn an_early_response_belongs_to_its_request() {
    let backend = Backend::start(|mut connection| {
        let path = connection.path().to_owned();
        connection.answer("text/plain", &path);
        connection.hang();
    });
    let proxy = Proxy::start(backend.address, "    stream: always");
    let mut client = proxy.connect();
    for at in 0..5 {
        client.send(&format!("GET /{at} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(client.read_head().status, 200);
        let wanted = format!("/{at}");
        client.read_until(|body| body.len() >= wanted.len());
        assert!(client.text().ends_with(&wanted), "{}", client.text());
        client.forget();
    }
}
