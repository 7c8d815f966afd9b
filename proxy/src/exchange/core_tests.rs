//! The rules of an exchange under an owned clock, one by one and at every split of the response.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::http::{Method, RequestHeader};
use pingora::prelude::Error;

use super::core::{Action, Exchange, Rules};
use super::upload::{Need, Upload};
use crate::failure::Failure;
use crate::stream::{Millis, Policy, Timeouts};

pub(super) const CONNECT: u64 = 30;
pub(super) const FIRST_BYTE: u64 = 100;
pub(super) const WRITE: u64 = 40;
pub(super) const BODY: u64 = 70;

pub(super) const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
pub(super) const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";

pub(super) fn rules() -> Rules {
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

pub(super) fn whole() -> Upload {
    Upload::whole(BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]))
}

pub(super) fn with_body() -> Upload {
    let mut request = RequestHeader::build(Method::POST, b"/", None).expect("a request");
    request.insert_header("Transfer-Encoding", "chunked").expect("a field");
    Upload::new(&request, true, false, Some(Duration::from_millis(BODY))).expect("a request")
}

pub(super) fn exchange(rules: Rules, servers: &[&'static str], upload: Upload) -> Exchange<&'static str> {
    Exchange::new(rules, servers.to_vec(), upload)
}

/// An exchange that has connected and sent its request at time 0.
pub(super) fn sent(rules: Rules) -> Exchange<&'static str> {
    let mut exchange = exchange(rules, &["a"], whole());
    assert_eq!(name(&exchange.next(Millis(0))), "connect new");
    exchange.wrote(1000, Millis(0));
    exchange
}

/// An action in a word or two.
pub(super) fn name(action: &Action) -> String {
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

pub(super) fn refused() -> Box<Error> {
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
