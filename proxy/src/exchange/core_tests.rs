//! The rules of an exchange under an owned clock: one by one, at every split of the response, and under random operations
//! against a model that computes everything anew from what has happened.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::http::{Method, RequestHeader};
use pingora::prelude::Error;

use super::core::{Action, Exchange, Rules};
use super::upload::{Need, Upload, WaitsFor};
use crate::failure::Failure;
use crate::stream::{Millis, Policy, Timeouts};

const CONNECT: u64 = 30;
const FIRST_BYTE: u64 = 100;
const WRITE: u64 = 40;
const BODY: u64 = 70;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";

fn rules() -> Rules {
    let millis = |millis| Some(Duration::from_millis(millis));
    let timeouts = Timeouts {
        connect: millis(CONNECT),
        first_byte: millis(FIRST_BYTE),
        write: millis(WRITE),
        ..Timeouts::default()
    };
    let policy = Arc::new(Policy { timeouts, response_head_bytes: 4096, ..Policy::default() });
    Rules { policy, may_be_stream: true, is_head: false, takes_interim: true, is_repeatable: false }
}

fn whole() -> Upload {
    Upload::whole(BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]))
}

fn with_body() -> Upload {
    let mut request = RequestHeader::build(Method::POST, b"/", None).expect("a request");
    request.insert_header("Transfer-Encoding", "chunked").expect("a field");
    Upload::new(&request, true, false, Some(Duration::from_millis(BODY))).expect("a request")
}

fn exchange(rules: Rules, servers: &[&'static str], upload: Upload) -> Exchange<&'static str> {
    Exchange::new(rules, servers.to_vec(), upload)
}

/// An exchange that has connected and sent its request at time 0.
fn sent(rules: Rules) -> Exchange<&'static str> {
    let mut exchange = exchange(rules, &["a"], whole());
    assert_eq!(name(&exchange.next(Millis(0))), "connect new");
    exchange.wrote(1000, Millis(0));
    exchange
}

/// An action in a word or two.
fn name(action: &Action) -> String {
    match action {
        Action::Connect { reuse: true } => "connect kept".to_owned(),
        Action::Connect { reuse: false } => "connect new".to_owned(),
        Action::Read => "read".to_owned(),
        Action::Forward(head) => format!("forward {}", head.status.as_u16()),
        Action::Stream(head, start) => format!("stream {} {}", head.status.as_u16(), start.leftover.escape_ascii()),
        Action::Page(head) => format!("page {}", head.status.as_u16()),
        Action::Fail(failure) => format!("fail {}", failure.as_str()),
        Action::Wait => "wait".to_owned(),
    }
}

fn refused() -> Box<Error> {
    Error::new(ErrorType::ConnectRefused)
}

#[test]
fn each_server_is_tried_once_and_the_last_failure_counts() {
    let mut tried = exchange(rules(), &["a", "b", "c"], whole());
    assert_eq!(name(&tried.next(Millis(0))), "connect new");
    assert_eq!((tried.server(), tried.deadline()), (Some(&"a"), Some(Millis(CONNECT))));
    assert_eq!(name(&tried.next(Millis(CONNECT - 1))), "wait");
    // The limit holds for each.
    assert_eq!(name(&tried.next(Millis(CONNECT))), "connect new");
    assert_eq!((tried.server(), tried.deadline()), (Some(&"b"), Some(Millis(2 * CONNECT))));
    tried.write_failed(io::ErrorKind::ConnectionRefused.into());
    assert_eq!(name(&tried.next(Millis(CONNECT))), "connect new");
    tried.connect_failed(refused());
    match tried.next(Millis(CONNECT)) {
        Action::Fail(failure @ Failure::Connect { .. }) => {
            assert_eq!(failure.proxy_status(), "connection_refused");
            assert_eq!(failure.to_string(), "cannot connect to upstream c");
        }
        other => panic!("{}", name(&other)),
    }
    assert_eq!(name(&tried.next(Millis(1000))), "wait");
    assert_eq!(name(&exchange(rules(), &[], whole()).next(Millis(0))), "fail no_server");
}

#[test]
fn a_kept_connection_that_closes_unused_is_replaced_once() {
    // What happens on the kept connection, and what is next.
    for (received, is_error, next) in [("", false, "connect new"), ("", true, "connect new"), ("H", false, "fail")] {
        let mut kept = exchange(Rules { is_repeatable: true, ..rules() }, &["a", "b"], whole());
        assert_eq!(name(&kept.next(Millis(0))), "connect kept");
        kept.connected(true, Millis(0));
        kept.wrote(1000, Millis(0));
        kept.received(received.as_bytes());
        match is_error {
            true => kept.read_failed(io::ErrorKind::ConnectionReset.into()),
            false => kept.closed(),
        }
        let action = name(&kept.next(Millis(50)));
        assert!(action.starts_with(next), "{received:?}: {action}");
        if next == "fail" && !received.is_empty() {
            continue;
        }
        assert_eq!((kept.server(), kept.deadline()), (Some(&"a"), Some(Millis(50 + CONNECT))));
        assert_eq!(kept.need(), Need::Write(b"GET / HTTP/1.1\r\n\r\n"), "all of the request");
        // A server that cannot be connected to anew is not tried again, and the next one not over a kept connection.
        kept.connect_failed(refused());
        assert_eq!((name(&kept.next(Millis(50))).as_str(), kept.server()), ("connect new", Some(&"b")));
        kept.connected(false, Millis(50));
        kept.closed();
        assert_eq!(name(&kept.next(Millis(50))), "fail upstream_broken");
    }
    let mut fresh = sent(Rules { is_repeatable: false, ..rules() });
    fresh.closed();
    assert_eq!(name(&fresh.next(Millis(0))), "fail upstream_broken");
}

#[test]
fn a_write_error_counts_only_if_no_response_comes() {
    for (received, outcome) in [
        ("", "writing the request"),
        ("HTTP/1.1 200", "writing the request"),
        ("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", ""),
    ] {
        let mut exchange = exchange(rules(), &["a"], with_body());
        exchange.next(Millis(0));
        exchange.wrote(3, Millis(0));
        exchange.write_failed(io::ErrorKind::BrokenPipe.into());
        assert_eq!(exchange.need(), Need::Nothing);
        assert_eq!(exchange.deadline(), Some(Millis(FIRST_BYTE)), "the clock runs on");
        exchange.received(received.as_bytes());
        let action = exchange.next(Millis(1));
        match action {
            Action::Page(head) => assert_eq!((head.status.as_u16(), outcome), (413, "")),
            _ => {
                exchange.closed();
                match exchange.next(Millis(1)) {
                    Action::Fail(Failure::Broken { source }) => assert!(source.to_string().contains(outcome)),
                    other => panic!("{}", name(&other)),
                }
            }
        }
    }
}

#[test]
fn the_failure_of_the_client_counts_at_once() {
    let mut gone = sent(rules());
    gone.client_gone(Error::new(ErrorType::ConnectionClosed));
    assert_eq!(name(&gone.next(Millis(0))), "fail client_gone");
    let mut malformed = sent(rules());
    malformed.upload_failed(Failure::BadRequest { source: Error::new(ErrorType::InvalidHTTPHeader) });
    assert_eq!(name(&malformed.next(Millis(0))), "fail bad_request");
}

/// Invariant: deadlines fire whatever comes in between. Mechanism: each interim response was progress. Symptom: an
/// upstream that sends 103 for ever holds its client for ever.
#[test]
fn a_series_of_interim_responses_does_not_postpone_the_deadline() {
    for takes_interim in [true, false] {
        let mut series = sent(Rules { takes_interim, ..rules() });
        let mut now = 0;
        let failed = loop {
            series.received(HINTS.as_bytes());
            match series.next(Millis(now)) {
                Action::Forward(_) | Action::Read => assert!(now < FIRST_BYTE),
                other => break name(&other),
            }
            now += 10;
        };
        assert_eq!((failed.as_str(), now), ("fail first_byte_timeout", FIRST_BYTE));
    }
}

#[test]
fn each_wait_has_its_deadline_and_the_client_comes_first() {
    let mut exchange = exchange(rules(), &["a"], with_body());
    exchange.next(Millis(0));
    exchange.wrote(1000, Millis(10));
    // It waits for the client's body.
    assert_eq!((exchange.deadline(), exchange.watches_client()), (Some(Millis(10 + BODY)), false));
    assert_eq!(name(&exchange.read_blocked(Millis(9 + BODY))), "wait");
    assert_eq!(name(&exchange.read_blocked(Millis(10 + BODY))), "fail request_timeout");
    exchange.upload().read(Some(Bytes::from_static(b"piece"))).expect("a piece");
    exchange.uploaded(Millis(20));
    // It waits for the upstream to read it.
    assert_eq!((exchange.deadline(), exchange.watches_client()), (Some(Millis(20 + FIRST_BYTE)), true));
    exchange.uploaded(Millis(30));
    assert_eq!(exchange.deadline(), Some(Millis(20 + FIRST_BYTE)), "without progress the clock runs on");
    assert_eq!(name(&exchange.read_blocked(Millis(20 + FIRST_BYTE))), "fail first_byte_timeout");
    // An interim response waits for the client.
    exchange.received(HINTS.as_bytes());
    assert_eq!(name(&exchange.next(Millis(40))), "forward 103");
    exchange.interim_blocked(false, Millis(40));
    exchange.interim_blocked(false, Millis(50));
    assert_eq!(exchange.deadline(), Some(Millis(40 + WRITE)));
    exchange.interim_blocked(true, Millis(60));
    assert_eq!(exchange.deadline(), Some(Millis(60 + WRITE)), "progress restarts the clock");
    exchange.received(STREAM.as_bytes());
    assert_eq!(name(&exchange.next(Millis(61))), "wait", "nothing overtakes an interim response");
    assert_eq!(name(&exchange.next(Millis(1000))), "fail write_timeout");
    exchange.interim_written();
    assert_eq!(name(&exchange.next(Millis(1000))), "stream 200 ", "a response that is there counts");
}

#[test]
fn a_response_gives_the_same_actions_at_every_split() {
    let continued = "HTTP/1.1 100 Continue\r\n\r\n";
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for (may_be_stream, is_head, takes_interim, wire, wanted) in [
        (
            true,
            false,
            true,
            [continued, HINTS, HINTS, STREAM, "data: x\n\n"].concat(),
            "forward 103, forward 103, stream 200",
        ),
        (true, false, false, [continued, HINTS, STREAM, "data: x\n\n"].concat(), "stream 200"),
        (false, false, true, [STREAM, "data: x\n\n"].concat(), "page 200"),
        (true, true, true, STREAM.to_owned(), "page 200"),
        (true, false, true, [HINTS, json].concat(), "forward 103, page 200"),
        (true, false, true, "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(), "fail upstream_invalid"),
        (true, false, true, "SSH-2.0-x\r\n\r\n".to_owned(), "fail upstream_broken"),
        (true, false, true, format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(4096)), "fail response_head_too_large"),
        (
            true,
            false,
            true,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1, 2\r\n\r\n".to_owned(),
            "fail upstream_invalid",
        ),
        (true, false, true, "HTTP/1.1 200 O".to_owned(), "fail upstream_broken"),
    ] {
        for cut in 0..=wire.len() {
            let mut exchange = sent(Rules { may_be_stream, is_head, takes_interim, ..rules() });
            let (mut actions, mut after) = (String::new(), Vec::new());
            let mut parts = [&wire[..cut], &wire[cut..]].into_iter();
            loop {
                match exchange.next(Millis(1)) {
                    Action::Read => match parts.next() {
                        Some(part) => exchange.received(part.as_bytes()),
                        None => exchange.closed(),
                    },
                    Action::Stream(head, start) => {
                        let _ = write!(actions, "stream {}", head.status.as_u16());
                        after = start.leftover;
                        break;
                    }
                    Action::Page(head) => {
                        let _ = write!(actions, "page {}", head.status.as_u16());
                        let received = exchange.take_received();
                        after = received
                            [received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4..]
                            .to_vec();
                        break;
                    }
                    Action::Forward(head) => {
                        let _ = write!(actions, "forward {}, ", head.status.as_u16());
                    }
                    other => {
                        actions += &name(&other);
                        break;
                    }
                }
            }
            assert_eq!(actions, wanted, "{wire:?} cut at {cut}");
            if !actions.contains("fail") {
                after.extend(parts.flat_map(str::bytes));
                let body = wire.rsplit_once("\r\n\r\n").map(|(_, body)| body);
                assert_eq!(Some(&after[..]), body.map(str::as_bytes), "{wire:?} cut at {cut}");
            }
        }
    }
}

/// What has happened in an exchange. The model keeps nothing else.
enum Event {
    Tried,
    Refused,
    Connected {
        reused: bool,
    },
    /// The upload made progress, and waits for this now.
    Moved(WaitsFor),
    Received(String),
    Closed,
    Blocked {
        progress: bool,
    },
    Written,
    /// Interim heads were dropped or forwarded.
    Consumed(usize),
}

struct Model {
    servers: usize,
    is_repeatable: bool,
    takes_interim: bool,
    log: Vec<(u64, Event)>,
}

impl Model {
    /// The events of the current attempt, and when it began.
    fn attempt(&self) -> Option<(u64, &[(u64, Event)])> {
        let at = self.log.iter().rposition(|(_, event)| matches!(event, Event::Tried))?;
        Some((self.log[at].0, &self.log[at + 1..]))
    }

    /// Whether a kept connection has been closed before it was used.
    fn closed_unused(events: &[(u64, Event)]) -> bool {
        events.iter().any(|(_, event)| matches!(event, Event::Connected { reused: true }))
            && events.iter().any(|(_, event)| matches!(event, Event::Closed))
            && !events.iter().any(|(_, event)| matches!(event, Event::Received(_)))
    }

    /// Whether an attempt before the current one ended that way.
    fn redialled(&self) -> bool {
        let attempts = self.log.split(|(_, event)| matches!(event, Event::Tried));
        attempts.rev().skip(1).any(Self::closed_unused)
    }

    fn next_server(&self, failure: &str) -> (String, usize) {
        let tried = self.log.iter().filter(|(_, event)| matches!(event, Event::Tried)).count();
        let redialled = usize::from(self.redialled());
        match tried - redialled < self.servers {
            true if self.is_repeatable && redialled == 0 => ("connect kept".to_owned(), 0),
            true => ("connect new".to_owned(), 0),
            false => (format!("fail {failure}"), 0),
        }
    }

    fn overdue(&self, now: u64) -> Option<&'static str> {
        let due = self.dues();
        [("write_timeout", due[0]), ("request_timeout", due[1]), ("first_byte_timeout", due[2])]
            .into_iter()
            .find_map(|(name, due)| due.filter(|due| *due <= now).map(|_| name))
    }

    /// When the waits for the client to read, for the client to send, and for the upstream end.
    fn dues(&self) -> [Option<u64>; 3] {
        let Some((_, events)) = self.attempt() else { return [None; 3] };
        let mut dues = [None; 3];
        for (at, event) in events {
            match event {
                Event::Moved(WaitsFor::Client) => (dues[1], dues[2]) = (Some(at + BODY), None),
                Event::Moved(_) => (dues[1], dues[2]) = (None, Some(at + FIRST_BYTE)),
                Event::Blocked { progress: true } => dues[0] = Some(at + WRITE),
                Event::Blocked { progress: false } => dues[0] = dues[0].or(Some(at + WRITE)),
                Event::Written => dues[0] = None,
                _ => {}
            }
        }
        dues
    }

    fn deadline(&self) -> Option<u64> {
        let (began, events) = self.attempt()?;
        match events.iter().any(|(_, event)| matches!(event, Event::Connected { .. })) {
            true => self.dues().into_iter().flatten().min(),
            false => Some(began + CONNECT),
        }
    }

    /// What is next, and how many interim heads it consumes.
    fn next(&self, now: u64) -> (String, usize) {
        let Some((began, events)) = self.attempt() else { return self.next_server("no_server") };
        if !events.iter().any(|(_, event)| matches!(event, Event::Connected { .. })) {
            return match events.iter().any(|(_, event)| matches!(event, Event::Refused)) {
                true => self.next_server("connect_failed"),
                false if began + CONNECT <= now => self.next_server("connect_timeout"),
                false => ("wait".to_owned(), 0),
            };
        }
        if events.iter().any(|(_, event)| matches!(event, Event::Closed)) {
            return match Self::closed_unused(events) && !self.redialled() {
                true => ("connect new".to_owned(), 0),
                false => ("fail upstream_broken".to_owned(), 0),
            };
        }
        let overdue = self.overdue(now).map(|name| format!("fail {name}"));
        if self.dues()[0].is_some() {
            return (overdue.unwrap_or_else(|| "wait".to_owned()), 0);
        }
        let (mut text, mut consumed) = (String::new(), 0);
        for (_, event) in events {
            match event {
                Event::Received(part) => text += part,
                Event::Consumed(count) => consumed += count,
                _ => {}
            }
        }
        let (heads, after) = text.rsplit_once("\r\n\r\n").unwrap_or(("", &text));
        let heads: Vec<&str> = heads.split("\r\n\r\n").filter(|head| !head.is_empty()).skip(consumed).collect();
        for (at, head) in heads.iter().enumerate() {
            let status = &head["HTTP/1.1 ".len()..][..3];
            if status >= "200" {
                let kind = if head.contains("event-stream") {
                    format!("stream 200 {after}")
                } else {
                    format!("page {status}")
                };
                return (kind, at);
            }
            if let Some(failure) = overdue {
                return (failure, at + 1);
            }
            if status == "103" && self.takes_interim {
                return ("forward 103".to_owned(), at + 1);
            }
        }
        ("read".to_owned(), heads.len())
    }
}

#[test]
fn random_operations_agree_with_a_naive_model() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut ends, mut steps) = (std::collections::BTreeMap::<String, u32>::new(), 0);
    for run in 0..5_000 {
        let is_repeatable = random.bool();
        let takes_interim = random.bool();
        let servers = if random.u8(..20) == 0 { 0 } else { random.usize(1..4) };
        let upload =
            if is_repeatable || random.bool() { Upload::head_only(BytesMut::from(&b"GET /"[..])) } else { with_body() };
        let mut exchange =
            exchange(Rules { is_repeatable, takes_interim, ..rules() }, &["a", "b", "c"][..servers], upload);
        let mut model = Model { servers, is_repeatable, takes_interim, log: Vec::new() };
        let mut response: String = [
            ["", HINTS, "HTTP/1.1 100 Continue\r\n\r\n"][random.usize(..3)],
            ["", HINTS][random.usize(..2)],
            [STREAM, "HTTP/1.1 404 Not Found\r\n\r\n"][random.usize(..2)],
        ]
        .concat();
        let (mut now, mut reuse) = (0, false);
        let context = |model: &Model| format!("seed {seed}, run {run}, event {}", model.log.len());
        let end = loop {
            steps += 1;
            let (expected, consumed) = model.next(now);
            let action = exchange.next(Millis(now));
            assert_eq!(name(&action), expected, "{}", context(&model));
            model.log.push((now, Event::Consumed(consumed)));
            match action {
                Action::Connect { reuse: kept } => {
                    reuse = kept;
                    model.log.push((now, Event::Tried));
                }
                Action::Forward(_) => {
                    let blocked = random.bool();
                    model.log.push((now, if blocked { Event::Blocked { progress: false } } else { Event::Written }));
                    match blocked {
                        true => exchange.interim_blocked(false, Millis(now)),
                        false => exchange.interim_written(),
                    }
                }
                Action::Read | Action::Wait => {}
                end => break name(&end),
            }
            assert_eq!(exchange.deadline(), model.deadline().map(Millis), "{}", context(&model));
            let is_open = model
                .attempt()
                .is_some_and(|(_, events)| events.iter().any(|(_, event)| matches!(event, Event::Connected { .. })));
            match random.u8(..8) {
                0 => now += random.u64(..60),
                1 if !is_open && random.bool() => {
                    model.log.push((now, Event::Refused));
                    exchange.connect_failed(refused());
                }
                1 if !is_open => {
                    let reused = reuse && random.bool();
                    exchange.connected(reused, Millis(now));
                    model.log.push((now, Event::Connected { reused }));
                    model.log.push((now, Event::Moved(exchange.upload().waits_for())));
                }
                2 | 3 if is_open => {
                    let is_last = random.bool();
                    match exchange.need() {
                        Need::Write(bytes) => {
                            let count = if random.bool() { bytes.len() } else { random.usize(1..=bytes.len()) };
                            exchange.wrote(count, Millis(now));
                        }
                        Need::Flush => exchange.upload().flushed(),
                        Need::Read => {
                            let piece = (!is_last).then(|| Bytes::from_static(b"piece"));
                            exchange.upload().read(piece).expect("a piece");
                        }
                        Need::Nothing => continue,
                        other => panic!("{other:?}"),
                    }
                    exchange.uploaded(Millis(now));
                    model.log.push((now, Event::Moved(exchange.upload().waits_for())));
                }
                4 if model.dues()[0].is_some() => match random.bool() {
                    true => {
                        let progress = random.bool();
                        exchange.interim_blocked(progress, Millis(now));
                        model.log.push((now, Event::Blocked { progress }));
                    }
                    false => {
                        exchange.interim_written();
                        model.log.push((now, Event::Written));
                    }
                },
                // A connection is read only when the exchange says so.
                5 if expected == "read" && random.u8(..8) == 0 => {
                    exchange.closed();
                    model.log.push((now, Event::Closed));
                }
                5 | 6 if expected == "read" && !response.is_empty() => {
                    let rest = response.split_off(random.usize(1..=response.len()));
                    let part = std::mem::replace(&mut response, rest);
                    exchange.received(part.as_bytes());
                    model.log.push((now, Event::Received(part)));
                }
                7 if expected == "read" => {
                    let blocked = name(&exchange.read_blocked(Millis(now)));
                    let wanted = model.overdue(now).map_or("wait".to_owned(), |name| format!("fail {name}"));
                    assert_eq!(blocked, wanted, "{}", context(&model));
                    if blocked != "wait" {
                        break blocked;
                    }
                }
                _ => {}
            }
        };
        *ends.entry(end).or_default() += 1;
    }
    // All but those of the classification, which every split of a response covers.
    assert_eq!(ends.len(), 9, "the operations do not reach each end: {ends:?} in {steps} steps, seed {seed}");
}
