//! Clients that close their connections, or send on behind their response.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Setup, WAYS, Way, backend};
use crate::support::{Backend, CHUNKED, chunk, contains, eventually};

/// Invariant: a client that closes its connection releases everything that its request holds, whatever it has
/// pipelined. Mechanism: Pingora stashed a pipelined byte and then did not read from the client any more; the end of
/// the connection was not seen. Symptom: 200 of 200 connections and their upstream connections stayed open until the
/// upstream sent something, and the proxy ran out of descriptors.
#[test]
fn a_client_that_pipelines_and_closes_is_detected() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        // Warm: threads and pools have opened what they keep.
        setup.connect().send("GET /page HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        backend.request();
        let before = eventually("a stable count", || {
            let count = setup.proxy.descriptors();
            thread::sleep(Duration::from_millis(50));
            (count == setup.proxy.descriptors()).then_some(count)
        });
        let behind = [String::new(), "X".to_owned(), "GET /next HTTP/1.1\r\n".to_owned(), "x".repeat(100_000)];
        let mut clients = Vec::new();
        for path in ["/silent", "/events/silent"] {
            for behind in &behind {
                // Two with an offer of another protocol that does not count: `Connection` does not name it.
                for fields in ["", "", "", "Upgrade: websocket\r\n", "Upgrade: websocket\r\n"] {
                    let mut client = setup.connect();
                    client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
                    backend.request();
                    client.socket.set_nonblocking(true).unwrap();
                    // As much as the kernel and the proxy take.
                    let _ = client.try_send(behind);
                    clients.push(client);
                }
            }
        }
        assert!(setup.proxy.descriptors() >= before + 2 * clients.len(), "{way:?}: all are being served");
        drop(clients);
        eventually(&format!("{way:?}: every descriptor is given back"), || {
            (setup.proxy.descriptors() <= before + 2).then_some(())
        });
    }
}

/// Invariant: a client that closes its connection releases everything that its request holds. Mechanism: while the
/// upstream did not read the request, nothing was read from the client either, and so not the end of its connection.
/// Symptom: both connections stayed open until `timeouts.first_byte`, `read` or `idle`.
#[test]
fn a_client_that_closes_while_its_upload_waits_is_detected() {
    let done = Arc::new(AtomicBool::new(false));
    let released = done.clone();
    let backend = Backend::start(move |mut connection| {
        match connection.path() {
            "/early" => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"),
            "/events/early" => connection.send([CHUNKED.as_bytes(), &chunk(b"data: a\n\n")].concat()),
            _ => {}
        }
        // Reads nothing.
        while !done.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let _release = Release(released);
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        // Once the connection that has shown that the listener is ready is gone.
        let before = eventually("a stable count", || {
            let count = setup.proxy.descriptors();
            thread::sleep(Duration::from_millis(300));
            (count == setup.proxy.descriptors()).then_some(count)
        });
        for path in ["/silent", "/early", "/events/silent", "/events/early"] {
            let mut client = setup.connect();
            client.send(&format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n"));
            backend.request();
            if path.ends_with("early") {
                assert_eq!(client.read_head().status, 200, "{way:?} {path}");
            }
            // As much as the kernels and the proxy take. With TLS a client also reads when it cannot write.
            client.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            while client.try_send([b'x'; 65_536]).is_ok() {}
            let held = setup.proxy.descriptors();
            assert!(held >= before + 2, "{way:?} {path}: it is being served, with {held} descriptors, {before} before");
            socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
            let closed = Instant::now();
            drop(client);
            eventually(&format!("{way:?} {path}: every descriptor is given back"), || {
                (setup.proxy.descriptors() <= before).then_some(())
            });
            // Far from any limit or heartbeat.
            assert!(closed.elapsed() < Duration::from_secs(10), "{way:?} {path}: {:?}", closed.elapsed());
        }
    }
}

/// A client that is still sending when it is refused can read why.
#[test]
fn a_refused_client_that_keeps_sending_reads_the_response() {
    let backend = backend();
    for way in WAYS {
        let setup = Setup::new(way, &backend, "{}");
        let mut client = setup.connect();
        client
            .send("POST /page HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..20 {
            if client.try_send([b'x'; 10_000]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let head = client.read_head();
        assert_eq!(head.status, 400, "{way:?}");
        let _ = client.socket.flush();
    }
}

/// Invariant: a client that is still sending reads its response, and is disconnected after five seconds. Mechanism: the rest
/// of a request was read by its session, and then by its connection. Symptom: a refused upload was read for ten seconds.
#[test]
fn a_client_that_sends_on_after_a_refusal_is_disconnected_after_five_seconds() {
    let answer = b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nmuch";
    thread::scope(|scope| {
        for way in WAYS {
            // An answer of the backend, one of the proxy, and one of the parser.
            for (path, fields, status) in [("/page", "", 413), ("/page", "X Y: bad\r\n", 400)] {
                scope.spawn(move || {
                    let backend = Backend::answering(vec![answer.to_vec()]);
                    let setup = Setup::new(way, &backend, "{}");
                    let mut client = setup.connect();
                    client.send(&format!(
                        "POST {path} HTTP/1.1\r\nHost: test\r\n{fields}Content-Length: 1000000\r\n\r\n"
                    ));
                    assert_eq!(client.read_head().status, status, "{way:?}");
                    let since = Instant::now();
                    while client.try_send("x").is_ok() {
                        thread::sleep(Duration::from_millis(50));
                        assert!(since.elapsed() < Duration::from_secs(8), "{way:?} {status}: still read");
                    }
                    assert!(since.elapsed() > Duration::from_secs(4), "{way:?} {status}: {:?}", since.elapsed());
                });
            }
        }
    });
}

/// Invariant: a stream holds two descriptors. Mechanism: the one that notices the client's end while an upload waits was kept
/// after the upload had gone on. Symptom: a third descriptor for each such stream, until it ended.
#[test]
fn a_stream_whose_upload_has_waited_holds_two_descriptors() {
    const LENGTH: usize = 20_000_000;
    let backend = Backend::start(|mut connection| {
        connection.send([CHUNKED.as_bytes(), &chunk(b"data: early\n\n")].concat());
        connection.wait_for_test();
        connection.read_body();
        connection.send(chunk(b"data: uploaded\n\n"));
        connection.hang();
    });
    for way in [Way::Reactor, Way::Task] {
        let setup = Setup::new(way, &backend, "{}");
        let before = eventually("a stable count", || {
            let count = setup.proxy.descriptors();
            thread::sleep(Duration::from_millis(300));
            (count == setup.proxy.descriptors()).then_some(count)
        });
        let mut client = setup.connect();
        client.send(&format!("POST /events HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n"));
        client.read_until(|received| contains(received, b"early"));
        let mut upload = client.socket.try_clone().unwrap();
        let uploading = thread::spawn(move || upload.write_all(&vec![b'x'; LENGTH]));
        let held = |count: usize, what: &str| {
            eventually(&format!("{way:?}: {what}"), || (setup.proxy.descriptors() == before + count).then_some(()));
        };
        held(3, "the upload waits, and the client's end is watched for");
        backend.proceed(1);
        uploading.join().unwrap().unwrap();
        client.read_until(|received| contains(received, b"uploaded"));
        held(2, "two descriptors once the upload is complete");
    }
}

/// Sets its flag, also when a test fails.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
