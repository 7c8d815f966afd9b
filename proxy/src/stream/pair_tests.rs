//! A pair under an owned clock: heartbeats, and the deadlines of a running stream.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::sse::Heartbeat;
use crate::wire::body::Body;

pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
pub(super) const IDLE: Duration = Duration::from_secs(300);
const WRITE: Duration = Duration::from_secs(10);

pub(super) fn policy() -> Policy {
    Policy {
        heartbeat: Some(HeartbeatPolicy { interval: HEARTBEAT, heartbeat: Heartbeat::default() }),
        timeouts: Timeouts { idle: Some(IDLE), write: Some(WRITE), ..Timeouts::default() },
        ..Policy::default()
    }
}

/// A pair, its clock, and everything the client has been sent.
pub(super) struct Harness {
    pub(super) pair: Pair,
    pub(super) now: Millis,
    pub(super) sent: Vec<u8>,
}

impl Harness {
    pub(super) fn with(policy: Policy, framing: Framing, body: Body, identity: bool) -> Self {
        let opening = Opening { policy: Arc::new(policy), body, framing, identity, random: 0.0, lifetime: None };
        Self { pair: Pair::new(opening, Millis(0)), now: Millis(0), sent: Vec::new() }
    }

    pub(super) fn plain(policy: Policy) -> Self {
        Self::with(policy, Framing::Plain, Body::UntilClose, true)
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> Progress {
        let progress = self.pair.upstream_data(bytes, self.now, &mut self.sent);
        self.pair.wrote(true, false, self.now);
        progress
    }

    /// Moves the clock to each deadline on the way, as a driver's timer would.
    pub(super) fn pass(&mut self, by: Duration) {
        let until = self.now.after(by);
        while let Some(next) = self.pair.next_deadline().filter(|next| *next <= until) {
            self.now = next.max(self.now);
            let before = self.sent.len();
            self.pair.tick(self.now, &mut self.sent);
            if self.sent.len() > before {
                self.pair.wrote(true, false, self.now);
            }
        }
        self.now = until;
    }

    pub(super) fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent).into_owned()
    }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn heartbeats_come_at_a_steady_cadence_in_silence() {
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n\n");
    stream.pass(secs(14));
    assert_eq!(stream.sent(), "data: a\n\n");
    stream.pass(secs(1));
    assert_eq!(stream.sent(), "data: a\n\n:\n\n");
    stream.pass(secs(30));
    assert_eq!(stream.pair.counts().heartbeats, 3);
}

#[test]
fn a_write_puts_the_heartbeat_off() {
    let mut stream = Harness::plain(policy());
    for _ in 0..10 {
        stream.pass(secs(10));
        stream.data(b"data: a\n\n");
    }
    assert_eq!(stream.pair.counts().heartbeats, 0);
}

#[test]
fn heartbeat_waits_for_event_boundary() {
    let mut stream = Harness::plain(policy());
    stream.data(b"event: x\n");
    stream.pass(secs(100));
    assert_eq!(stream.pair.counts().heartbeats, 0);
    stream.data(b"data: 1\n\n");
    stream.pass(secs(15));
    assert_eq!(stream.sent(), "event: x\ndata: 1\n\n:\n\n");
}

#[test]
fn heartbeat_before_the_first_byte_costs_the_upstream_its_byte_order_mark() {
    let whole = b"\xEF\xBB\xBFdata: a\n\n";
    for cut in 0..whole.len() {
        let mut stream = Harness::plain(policy());
        stream.pass(secs(15));
        stream.data(&whole[..cut]);
        stream.data(&whole[cut..]);
        assert_eq!(stream.sent(), ":\n\ndata: a\n\n", "cut at {cut}");
    }
    let mut untouched = Harness::plain(policy());
    untouched.data(whole);
    assert_eq!(untouched.sent, whole);
    // Only one: another is the beginning of a field's name, whatever came between.
    let mut twice = Harness::plain(policy());
    twice.pass(secs(15));
    twice.data(&whole[..3]);
    twice.pass(secs(15));
    twice.data(whole);
    assert_eq!(twice.sent, [b":\n\n:\n\n", &whole[..]].concat());
}

#[test]
fn bytes_that_only_begin_like_a_byte_order_mark_are_kept() {
    for stray in [&b"\xEFdata: a\n\n"[..], b"\xEF\xBBdata: a\n\n", b"\xEF", b"\xEF\xBB"] {
        for cut in 0..=stray.len() {
            let mut stream = Harness::plain(policy());
            stream.pass(secs(15));
            stream.data(&stray[..cut]);
            stream.data(&stray[cut..]);
            let now = stream.now;
            stream.pair.upstream_closed(now, &mut stream.sent);
            assert_eq!(stream.sent, [&b":\n\n"[..], stray].concat(), "cut at {cut}");
        }
    }
}

#[test]
fn encoded_bodies_get_no_heartbeat() {
    let mut stream = Harness::with(policy(), Framing::Plain, Body::UntilClose, false);
    stream.data(b"\x1f\x8b\n\n");
    stream.pass(secs(200));
    assert_eq!(stream.sent, b"\x1f\x8b\n\n");
}

#[test]
fn heartbeats_do_not_count_as_upstream_activity() {
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n\n");
    stream.pass(IDLE);
    assert_eq!(stream.pair.ended(), Some(EndReason::IdleTimeout));
    assert!(!stream.pair.ended_clean());
    assert_eq!(stream.pair.counts().heartbeats, 19);
}

#[test]
fn upstream_comments_count_as_activity_unless_told_otherwise() {
    for (ignores, ended) in [(false, None), (true, Some(EndReason::IdleTimeout))] {
        let mut stream = Harness::plain(Policy { idle_ignores_comments: ignores, ..policy() });
        for _ in 0..40 {
            stream.data(b": still here\n\n");
            stream.pass(secs(10));
        }
        assert_eq!(stream.pair.ended(), ended, "ignores comments: {ignores}");
    }
}

#[test]
fn a_client_that_reads_nothing_times_out_though_the_upstream_is_not_read() {
    let mut stream = Harness::plain(policy());
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(false, true, stream.now);
    assert!(!stream.pair.wants_upstream());
    stream.pass(secs(9));
    stream.pair.wrote(true, true, stream.now);
    stream.pass(secs(9));
    assert_eq!(stream.pair.ended(), None, "progress moves the deadline");
    stream.pair.wrote(false, true, stream.now);
    stream.pass(secs(1));
    assert_eq!(stream.pair.ended(), Some(EndReason::WriteTimeout));
    assert_eq!(stream.pair.next_deadline(), None);
}

#[test]
fn no_heartbeat_is_queued_behind_pending_bytes() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(true, true, stream.now);
    stream.pass(secs(100));
    assert_eq!(stream.pair.counts().heartbeats, 0);
    stream.pair.wrote(true, false, stream.now);
    stream.pass(secs(15));
    assert_eq!(stream.pair.counts().heartbeats, 1);
}

#[test]
fn idle_fires_while_a_write_is_blocked() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(true, true, stream.now);
    stream.pass(IDLE);
    assert_eq!(stream.pair.ended(), Some(EndReason::IdleTimeout));
    assert!(stream.pair.next_deadline().is_some(), "the pending bytes of an ended stream do not wait for ever");
}

#[test]
fn an_upstream_whose_bytes_wait_for_the_client_is_not_idle() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(true, true, stream.now);
    stream.now = stream.now.after(IDLE);
    assert!(stream.pair.suspects_idle(stream.now));
    stream.pair.upstream_waits(stream.now);
    stream.pair.tick(stream.now, &mut stream.sent);
    assert_eq!(stream.pair.ended(), None);
    stream.pair.wrote(true, false, stream.now);
    assert!(
        !stream.pair.suspects_idle(stream.now.after(IDLE)),
        "the idle timeout applies once the upstream is read again"
    );
}

#[test]
fn a_drain_does_not_wait_beyond_its_limit_for_a_client_that_is_behind() {
    let mut stream = Harness::plain(policy());
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(false, true, stream.now);
    stream.pair.close(EndReason::Drain, secs(1), stream.now);
    stream.pass(secs(1));
    assert_eq!((stream.pair.ended(), stream.pair.abandoned()), (Some(EndReason::Drain), true));
}
