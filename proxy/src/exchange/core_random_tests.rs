//! Random operations on an exchange against a model that computes everything anew from what has happened.

use bytes::{Bytes, BytesMut};

use super::core::{Action, Rules};
use super::core_tests::*;
use super::upload::{Need, Upload, WaitsFor};
use crate::stream::Millis;

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
