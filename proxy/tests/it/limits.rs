//! Limits on streams under many clients at once, and when descriptors run short.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::{Backend, CHUNKED, Client, Proxy, chunk, eventually};

/// Streams that send one event and stay silent.
fn silent_streams() -> Backend {
    Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    })
}

fn stream(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    client
}

/// Invariant: a limit holds however many ask at once. Mechanism: a check that is not one step with the count lets several
/// pass. A refusal closes its connection and sends nothing upstream.
#[test]
fn a_storm_gets_as_many_streams_as_the_limit_and_every_other_client_an_answer() {
    const CLIENTS: usize = 300;
    const STREAMS: usize = 20;
    let limits = [format!("{{streams: {STREAMS}}}"), format!("{{streams_per_client: {STREAMS}}}")];
    for (driver, threads) in [("parked", 1), ("parked", 4), ("task", 1), ("task", 4)] {
        for limits in &limits {
            let what = format!("{driver}, threads: {threads}, {limits}");
            let backend = silent_streams();
            let config = format!(
                "threads: {threads}\nupstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{limits: {limits}}}]\n",
                backend.address
            );
            let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
            let (statuses, address) = (Mutex::new(Vec::new()), proxy.address);
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| {
                        let mut clients: Vec<Client> = (0..CLIENTS / 6).map(|_| stream(address)).collect();
                        let heads: Vec<_> = clients.iter_mut().map(|client| client.read_head().status).collect();
                        for (client, status) in clients.iter_mut().zip(&heads).filter(|(_, status)| **status != 200) {
                            client.read_to_end().unwrap_or_else(|error| panic!("{what}: {error} after {status}"));
                        }
                        statuses.lock().unwrap().extend(heads.into_iter().zip(clients));
                    });
                }
            });
            let statuses = statuses.into_inner().unwrap();
            let admitted = statuses.iter().filter(|(status, _)| *status == 200).count();
            assert_eq!((statuses.len(), admitted), (CLIENTS, STREAMS), "{what}");
            assert_eq!(proxy.metric("sse_proxy_streams_opened_total{route=\"/\"}"), Some(STREAMS as f64), "{what}");
            for _ in 0..STREAMS {
                backend.request();
            }
            drop(statuses);
            // All have been given back, those of the refused ones included.
            eventually("the streams end", || {
                (proxy.metric("sse_proxy_streams_active{route=\"/\"}") == Some(0.0)).then_some(())
            });
            let mut again: Vec<_> = (0..STREAMS).map(|_| proxy.stream("/")).collect();
            again.iter_mut().for_each(|client| assert_eq!(client.read_head().status, 200, "{what}"));
            assert_ne!(proxy.stream("/").read_head().status, 200, "{what}");
            drop(proxy);
        }
    }
}

/// Invariant: clients get an answer though descriptors are used up. Mechanism: streams took the last ones, and new
/// connections waited in the kernel's queue. Symptom: at the limit, clients hung until a stream ended.
#[test]
fn streams_are_refused_before_descriptors_run_out() {
    for driver in ["parked", "task"] {
        let backend = silent_streams();
        let config = format!("threads: 2\nupstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
        let proxy = Proxy::start_on(driver, &[("NOFILE", "256")], "{address: 127.0.0.1:0}", &config);
        let mut held = Vec::new();
        let refused = loop {
            let mut client = proxy.stream("/");
            let head = client.read_head();
            if head.status != 200 {
                break head;
            }
            held.push(client);
            assert!(held.len() < 128, "{driver}: more streams than descriptors allow");
        };
        assert_eq!(refused.status, 503, "{driver}: {}", refused.text);
        assert!(refused.text.contains("error=connection_limit_reached"), "{driver}: {}", refused.text);
        assert!(held.len() > 50, "{driver}: {} streams", held.len());
        let mut refused = 1.0;
        for _ in 0..50 {
            let mut client = proxy.stream("/");
            match client.read_head().status {
                503 => refused += 1.0,
                // The beginning of a stream needs another descriptor for a moment, which is given back.
                status => held.push((assert_eq!(status, 200, "{driver}"), client).1),
            }
        }
        assert!(refused > 40.0 && held.len() < 128, "{driver}: {refused} refused");
        let limited = "sse_proxy_limited_total{route=\"/\",limit=\"descriptors\"}";
        assert_eq!(proxy.metric(limited), Some(refused), "{driver}");
        drop(held);
        eventually("there is room again", || (proxy.stream("/").read_head().status == 200).then_some(()));
    }
}

/// A refusal is a whole response behind a whole request, whatever the client sends next: nothing of it is lost to a reset.
#[test]
fn a_client_that_reads_late_gets_its_refusal() {
    let backend = silent_streams();
    for driver in ["parked", "task"] {
        let config = format!(
            "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{limits: {{opening_rate: 1/h}}}}]\n",
            backend.address
        );
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &config);
        assert_eq!(proxy.stream("/").read_head().status, 200);
        for _ in 0..20 {
            let mut late = stream(proxy.address);
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(late.read_head().status, 429, "{driver}");
            assert!(late.read_to_end().unwrap().ends_with(b"allows\n"), "{driver}");
        }
    }
}
