//! What a proxy can do to events, injected by one in this test: each fault is found, every time, and counted once.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sse_loadgen::distribution::Distribution;
use support::{DEADLINE, origin, run_json};

const STREAMS: usize = 20;
/// Every second event is touched, the first and the last are not: four on each stream.
const EVENTS: usize = 9;
const INJECTED: u64 = 80;

/// What is done to an event, as the bytes of its block, the blank line included; it is given back in its place.
type Injection = fn(&str) -> String;

/// Accepts `STREAMS` connections and passes each on to `origin`, with `inject` applied to every second event.
fn proxy<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    listener: &TcpListener,
    origin: SocketAddr,
    inject: Injection,
    delay: Duration,
) {
    listener.set_nonblocking(true).expect("a flag");
    let start = Instant::now();
    for _ in 0..STREAMS {
        let client = loop {
            match listener.accept() {
                Ok((client, _)) => break client,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && start.elapsed() < DEADLINE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("not all clients have connected: {error}"),
            }
        };
        client.set_nonblocking(false).expect("a flag");
        scope.spawn(move || relay(client, support::connect(origin), inject, delay));
    }
}

fn relay(mut client: TcpStream, mut upstream: TcpStream, inject: Injection, delay: Duration) {
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.set_nodelay(true).expect("a flag");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    upstream.write_all(&request).expect("sent");
    let (mut pending, mut seen, mut is_body) = (String::new(), 0, false);
    let mut buffer = [0; 4096];
    loop {
        let count = upstream.read(&mut buffer).expect("a response in time");
        if count == 0 {
            assert_eq!((pending.as_str(), seen), ("", EVENTS), "the origin's stream is whole");
            return;
        }
        pending.push_str(std::str::from_utf8(&buffer[..count]).expect("the origin writes text"));
        let separator = |is_body| if is_body { "\n\n" } else { "\r\n\r\n" };
        while let Some(end) = pending.find(separator(is_body)).map(|at| at + separator(is_body).len()) {
            let block: String = pending.drain(..end).collect();
            seen += usize::from(std::mem::replace(&mut is_body, true));
            if seen > 0 && seen % 2 == 0 {
                std::thread::sleep(delay);
                client.write_all(inject(&block).as_bytes()).expect("sent");
            } else {
                client.write_all(block.as_bytes()).expect("sent");
            }
        }
    }
}

/// Runs the program through the injecting proxy; returns its document and what it printed.
fn measure(inject: Injection, delay: Duration, query: &str) -> (Value, String) {
    let (_origin, address) = origin();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url =
        format!("http://{}/events?count={EVENTS}&framing=close{query}", listener.local_addr().expect("an address"));
    std::thread::scope(|scope| {
        let run = scope.spawn(move || run_json(&["-c", &STREAMS.to_string(), "-d", "20s", "--ramp", "0s", &url]));
        proxy(scope, &listener, address, inject, delay);
        let (_, document, all) = run.join().expect("a result");
        (document, all)
    })
}

#[test]
fn every_injected_fault_is_found_and_counted_once() {
    // Invariant: a proxy may put heartbeats only between events. The last event id outlives the blank line of a heartbeat, so
    // that an event whose `id` was torn off looked whole: none of 80 was noticed. A damaged event also counted as lost.
    let clean = json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0});
    let with = |fault: &str| {
        let mut faults = clean.clone();
        faults[fault] = INJECTED.into();
        faults
    };
    let cases: [(&str, Injection, Value, u64); 16] = [
        ("nothing", |event| event.to_owned(), clean.clone(), 0),
        ("heartbeat before the event", |event| format!(":\n\n{event}"), clean.clone(), INJECTED),
        (
            "comment line inside the event",
            |event| event.replace("\ndata:", "\n: x\ndata:"),
            clean.clone(),
            3 * INJECTED,
        ),
        ("heartbeat between id and data", |event| event.replacen("\ndata:", "\n:\n\ndata:", 1), with("torn"), INJECTED),
        ("heartbeat between event and id", |event| event.replacen("\nid:", "\n:\n\nid:", 1), with("torn"), INJECTED),
        (
            "named heartbeat between id and data",
            |event| event.replacen("\ndata:", "\nevent: ping\ndata: {}\n\ndata:", 1),
            with("torn"),
            INJECTED,
        ),
        (
            "heartbeats between data lines",
            |event| event.replace("\ndata: \"", "\n:\n\ndata: \""),
            with("torn"),
            2 * INJECTED,
        ),
        ("drop", |_| String::new(), with("lost"), 0),
        ("repeat", |event| event.repeat(2), with("duplicated"), 0),
        ("damage data", |event| event.replacen("\"pad\":\"", "\"pad\":\"!", 1), with("corrupted"), 0),
        ("damage the sequence number", |event| event.replacen("\"n\":", "\"n\":1", 1), with("corrupted"), 0),
        ("damage the id", |event| event.replacen("id: ", "id: 1", 1), with("corrupted"), 0),
        ("damage the name", |event| event.replacen("event: m", "event: n", 1), with("corrupted"), 0),
        ("drop the id", |event| event.replacen("id: ", "ix: ", 1), with("torn"), 0),
        ("cut data", |event| event.replacen("\"pad\":\"", "", 1), with("torn"), 0),
        ("drop the last data line", |event| event.replacen("data: \"crc\"", ": \"crc\"", 1), with("torn"), INJECTED),
    ];
    for (what, inject, expected, heartbeats) in cases {
        let (document, all) = measure(inject, Duration::ZERO, "&interval=5ms&size=200&multiline=3");
        assert_eq!(document["integrity"], expected, "{what}: {all}");
        assert_eq!(document["counts"]["heartbeats"], heartbeats, "{what}: {all}");
        let untouched = (STREAMS * EVENTS) as u64 - INJECTED;
        let whole = if expected == clean || what == "repeat" { untouched + INJECTED } else { untouched };
        assert_eq!(document["counts"]["stamped"], whole, "{what}: {all}");
    }
}

#[test]
fn every_injected_delay_shows_in_the_latency_and_nowhere_else() {
    let delay = Duration::from_millis(100);
    let (document, all) = measure(|event| event.to_owned(), delay, "&interval=250ms");
    assert_eq!(document["integrity"], json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0}), "{all}");
    let encoded = document["distributions"]["latency_us"]["hdr_v2"].as_str().expect("a histogram");
    let latency = Distribution::from_v2_base64(encoded, 0, 0).expect("readable");
    let late = latency.histogram().count_between(delay.as_micros() as u64, u64::MAX);
    // A busy machine may delay some of the others as well.
    assert!((INJECTED..INJECTED + 20).contains(&late), "{late} events were late: {all}");
}
