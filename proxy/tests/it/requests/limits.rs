//! Limits on the time that a client's request takes, and on the descriptors of all clients.

use std::thread;
use std::time::{Duration, Instant};

use super::{Setup, WAYS, Way, backend};
use crate::support::{Certificate, Client, Proxy, eventually};

/// Invariant: a request head takes no longer than `client.timeouts.header` in total. Mechanism: Pingora limits each
/// read. Symptom: a byte every few seconds kept connections of 25 to 46 KiB open without a limit.
#[test]
fn a_slow_head_is_answered_with_408() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {header: 1s}}");
        let mut first = setup.connect();
        let mut second = setup.connect();
        second.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(second.read_head().status, 200);
        second.read_exactly(4);
        backend.request();
        for client in [&mut first, &mut second] {
            let since = Instant::now();
            let mut sent = 0;
            // Until the proxy has had enough: then sending fails, or the answer is there.
            for byte in "GET /page HTTP/1.1\r\nHost: test\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                .bytes()
                .chain(std::iter::repeat_n(b'a', 1000))
            {
                if client.try_send([byte]).is_err() || since.elapsed() > Duration::from_millis(1400) {
                    break;
                }
                sent += 1;
                thread::sleep(Duration::from_millis(20));
            }
            assert!(sent > 2, "{way:?}: {sent} bytes");
            assert_eq!(client.read_head().status, 408, "{way:?}");
            client.read_to_end().unwrap();
        }
        assert_eq!(setup.proxy.metric("sse_proxy_refused_total{reason=\"head_timeout\"}"), Some(2.0), "{way:?}");
    }
}

/// Invariant: `client.timeouts.header` limits every listener. Mechanism: Pingora's listener does TLS handshakes within a fixed
/// minute. Symptom: connections that send nothing to a TLS listener stayed open for 60 s, whatever was configured.
#[test]
fn a_slow_tls_handshake_is_closed() {
    let backend = backend();
    let setup = Setup::new(Way::Tls, &backend, "{timeouts: {header: 400ms}}");
    // Nothing, and the start of a handshake record.
    for (at, sent) in [&b""[..], b"\x16\x03\x01\x02\x00\x01"].into_iter().enumerate() {
        let mut client = setup.proxy.connect();
        client.try_send(sent).unwrap();
        let since = Instant::now();
        client.read_to_end().expect("the proxy closes the connection");
        assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
        let metric = "sse_proxy_closed_connections_total{reason=\"tls_slow\"}";
        eventually("the connection is counted", || (setup.proxy.metric(metric) == Some(at as f64 + 1.0)).then_some(()));
    }
    let mut other = setup.proxy.connect();
    other.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let _ = other.read_to_end();
    eventually("a line in the log", || {
        setup.proxy.stderr().contains("TLS handshake failed: side=downstream").then_some(())
    });
    let mut client = setup.connect();
    client.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
}

#[test]
fn a_slow_body_is_answered_with_408() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {body: 300ms}}");
        for path in ["/page", "/events/silent"] {
            for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc"] {
                let mut client = setup.connect();
                client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\n{framing}"));
                assert_eq!(client.read_head().status, 408, "{way:?} {path} {framing}");
            }
        }
    }
}

#[test]
fn a_connection_without_a_request_is_closed_after_its_limit() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{timeouts: {header: 400ms, keepalive: 700ms}}");
        let since = Instant::now();
        let (mut silent, mut kept) = (setup.connect(), setup.connect());
        kept.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(kept.read_head().status, 200);
        kept.read_exactly(4);
        // An empty line is no request.
        kept.send("\r\n");
        if way == Way::Tls {
            silent.handshake();
        }
        assert_eq!(silent.read_to_end().unwrap(), b"", "{way:?}");
        assert!(since.elapsed() >= Duration::from_millis(400), "{way:?}: {:?}", since.elapsed());
        assert_eq!(kept.read_to_end().unwrap(), b"", "{way:?}");
        assert!(since.elapsed() >= Duration::from_millis(700), "{way:?}: {:?}", since.elapsed());
    }
}

/// Invariant: the admin listener responds whatever clients do. Mechanism: clients could use every descriptor. Symptom:
/// at the limit, the admin listener was unreachable for as long as the clients stayed, and longer.
#[test]
fn clients_cannot_take_the_last_descriptors() {
    let backend = backend();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    // Accepts, and says nothing to a TLS handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (plain, secure) = (backend.address.to_string(), format!("https://{}", silent.local_addr().unwrap()));
    // The driver, whether clients speak TLS, what they ask for, and the server.
    for (driver, tls, fields, server) in [
        ("parked", false, "", &plain),
        ("parked", true, "", &plain),
        ("task", false, "", &plain),
        ("parked", false, upgrade, &plain),
        ("parked", false, "", &secure),
        ("parked", false, upgrade, &secure),
    ] {
        let files = Certificate::new();
        let listener = match tls {
            true => format!("{{address: 127.0.0.1:0, tls: {}}}", files.yaml()),
            false => "{address: 127.0.0.1:0}".to_owned(),
        };
        let config =
            format!("upstreams: {{app: {{servers: ['{server}']}}}}\nthreads: 2\nroutes: [{{stream: always}}]\n");
        let proxy = Proxy::start_on(driver, &[("NOFILE", "160")], &listener, &config);
        let mut clients: Vec<Client> = Vec::new();
        let request = format!("GET /events HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        // Pingora connects for these: nobody asks before all have connected, so that none is left for the upstream.
        let asks_later = !fields.is_empty() || server == &secure;
        // Streams take two descriptors each; without one, a client waits or gets a 502.
        for _ in 0..200 {
            let mut client = proxy.connect();
            client.socket.set_nonblocking(true).unwrap();
            if !tls && !asks_later {
                let _ = client.try_send(&request);
            }
            clients.push(client);
        }
        let open = eventually("the reserve is all that is left", || {
            let open = proxy.descriptors();
            (open >= 120).then_some(open)
        });
        if asks_later {
            clients.iter_mut().for_each(|client| drop(client.try_send(&request)));
        }
        for _ in 0..5 {
            assert_eq!(proxy.admin_page("/healthz").0, 200, "with {open} of 160 open, TLS {tls} {fields} {server}");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(proxy.descriptors() < 155, "{}, TLS {tls} {fields} {server}", proxy.descriptors());
        // Once they have closed, requests are served again.
        drop(clients);
        eventually("descriptors are given back", || (proxy.descriptors() < 80).then_some(()));
        if server == &secure {
            continue;
        }
        // Connections that were still waiting to be accepted may take some first.
        eventually("requests are served again", || {
            let mut client = if tls { proxy.connect_tls() } else { proxy.connect() };
            client.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
            (client.read_head().status == 200).then_some(())
        });
    }
}
