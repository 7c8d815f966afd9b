//! A sink alone, under an owned clock: heartbeats, the write limit, every end.

use std::time::Duration;

use super::sink::{BREAK_PAUSE, FLUSH_LIMIT, Sink, SinkDeadline};
use super::*;
use crate::sse::Heartbeat;

const INTERVAL: Duration = Duration::from_secs(15);
const WRITE: Duration = Duration::from_secs(10);

fn policy(write: Option<Duration>) -> Policy {
    let heartbeat = Some(HeartbeatPolicy::new(INTERVAL, Heartbeat::default()));
    let mut policy = Policy { heartbeat, ..Policy::default() };
    policy.timeouts.write = write;
    policy
}

/// Invariant: a deadline lies ahead once it has been handled. Mechanism: an interval below the clock's resolution is 0. Symptom: the
/// stream's thread writes heartbeats and does nothing else.
#[test]
fn a_heartbeat_interval_below_a_millisecond_counts_as_one() {
    for interval in [Duration::ZERO, Duration::from_nanos(1)] {
        let heartbeat = Some(HeartbeatPolicy::new(interval, Heartbeat::default()));
        let policy = Policy { heartbeat, ..Policy::default() };
        assert_eq!(Sink::new(Framing::Chunked, true, &policy, Millis(7)).deadline(), Millis(8), "{interval:?}");
    }
}

#[test]
fn a_heartbeat_is_due_only_in_silence_between_events_with_nothing_pending() {
    let policy = policy(None);
    let now = Millis(1000);
    // Whether bytes are pending, and whether they end an event; when the heartbeat is due.
    for (rest, between_events, due) in [
        (false, true, now.after(INTERVAL)),
        (false, false, Millis::NEVER),
        (true, true, Millis::NEVER),
        (true, false, Millis::NEVER),
    ] {
        let mut sink = Sink::new(Framing::Chunked, true, &policy, Millis(0));
        assert_eq!(sink.deadline(), Millis(0).after(INTERVAL));
        sink.wrote(true, rest, between_events, &policy, now);
        assert_eq!(sink.deadline(), due, "{rest} {between_events}");
        let mut out = Vec::new();
        let sent = sink.heartbeat(between_events, &policy, &mut out);
        assert_eq!((sent, sink.heartbeats()), (!rest && between_events, u64::from(sent)), "{rest} {between_events}");
        assert_eq!(out, if sent { &b"3\r\n:\n\n\r\n"[..] } else { b"" });
        assert_eq!(sink.deadline(), Millis::NEVER, "the next one is due after this one is written");
    }
}

#[test]
fn the_write_limit_runs_from_the_last_progress() {
    // The route's limit, whether the body has ended, the limit that applies.
    for (write, ended, limit) in [
        (Some(WRITE), false, Some(WRITE)),
        (None, false, None),
        (Some(WRITE), true, Some(WRITE)),
        (None, true, Some(FLUSH_LIMIT)),
    ] {
        let policy = policy(write);
        let mut sink = Sink::new(Framing::Plain, true, &policy, Millis(0));
        sink.wrote(false, true, true, &policy, Millis(1));
        assert_eq!(sink.deadline(), Millis(1).within(write));
        let mut begun = Millis(1);
        if ended {
            begun = Millis(2);
            sink.complete(None, &policy, begun, &mut Vec::new());
        }
        sink.wrote(false, true, true, &policy, Millis(3));
        assert_eq!(sink.deadline(), begun.within(limit), "no progress");
        sink.wrote(true, true, true, &policy, Millis(4));
        let due = Millis(4).within(limit);
        assert_eq!(sink.deadline(), due, "progress");
        assert_eq!(sink.expired(Millis(due.0 - 1)), None);
        assert_eq!(sink.expired(due), Some(SinkDeadline::Write));
        sink.wrote(true, false, false, &policy, Millis(5));
        assert!(!sink.is_blocked());
        assert_eq!(sink.deadline(), Millis::NEVER);
    }
}

#[test]
fn a_body_ends_as_its_framing_shows_it() {
    let policy = policy(Some(WRITE));
    for (framing, last, broken) in [
        (Framing::Chunked, "0\r\nA: b\r\n\r\n", Some("ff\n")),
        (Framing::Plain, "", Some("")),
        (Framing::Http2, "", None),
    ] {
        let new = || Sink::new(framing, true, &policy, Millis(0));
        let (mut complete, mut out) = (new(), Vec::new());
        complete.complete(Some(b"A: b\r\n"), &policy, Millis(1), &mut out);
        assert_eq!((out.as_slice(), complete.is_complete()), (last.as_bytes(), true), "{framing:?}");
        assert_eq!(complete.deadline(), Millis::NEVER, "{framing:?}");

        // The pause begins once everything is written.
        for blocked in [false, true] {
            let (mut cut, mut out) = (new(), Vec::new());
            cut.wrote(true, blocked, true, &policy, Millis(1));
            cut.cut(&policy, Millis(2));
            assert_eq!((cut.is_complete(), cut.is_breaking()), (false, broken.is_some()), "{framing:?}");
            let mut written = Millis(2);
            if blocked {
                assert_eq!(cut.expired(Millis(2).after(WRITE)), Some(SinkDeadline::Write), "{framing:?}");
                written = Millis(3);
                cut.wrote(true, false, true, &policy, written);
            }
            let due = written.after(BREAK_PAUSE);
            assert_eq!(cut.expired(Millis(due.0 - 1)), None, "{framing:?}");
            assert_eq!(cut.expired(due), broken.map(|_| SinkDeadline::Break), "{framing:?}");
            if let Some(broken) = broken {
                cut.signal_break(&mut out);
                assert_eq!((out.as_slice(), cut.is_breaking()), (broken.as_bytes(), false), "{framing:?}");
            }
            assert_eq!(cut.deadline(), Millis::NEVER, "{framing:?}");
        }
    }
}

#[test]
fn an_abandoned_client_has_no_deadline() {
    let policy = policy(Some(WRITE));
    for blocked in [false, true] {
        let mut sink = Sink::new(Framing::Chunked, true, &policy, Millis(0));
        sink.wrote(true, blocked, true, &policy, Millis(1));
        sink.abandon();
        assert_eq!((sink.deadline(), sink.is_abandoned(), sink.is_complete()), (Millis::NEVER, true, false));
        sink.wrote(true, false, true, &policy, Millis(2));
        assert_eq!(sink.deadline(), Millis::NEVER);
    }
}
