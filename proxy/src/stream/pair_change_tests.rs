//! A pair under an owned clock: drains that are spread, and rules that change while the stream runs.

use std::sync::Arc;
use std::time::Duration;

use super::pair_tests::{HEARTBEAT, Harness, IDLE, policy, secs};
use super::*;
use crate::sse::Heartbeat;
use crate::wire::body::Body;

fn drain(spread: u64, limit: u64, retry: Option<(u64, u64)>) -> Drain {
    let retry = retry.map(|(min, max)| RetryRange::new(secs(min), secs(max)));
    Drain { spread_until: Millis(1000 * spread), cut_at: Millis(1000 * limit), retry }
}

impl Harness {
    /// As a driver does during a drain: at each deadline, and with each event.
    fn drained(&mut self, drain: &Drain, random: f64, by: Duration) {
        let until = self.now.after(by);
        loop {
            self.pair.drain(drain, || random, self.now);
            self.pass(Duration::ZERO);
            match self.pair.next_deadline().filter(|next| *next <= until) {
                Some(next) => self.now = next.max(self.now),
                None => break,
            }
        }
        self.now = until;
    }

    fn set_policy(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut policy = Policy::clone(self.pair.policy());
        change(&mut policy);
        self.pair.set_policy(Arc::new(policy), Millis(0), 0.5, self.now);
    }
}

#[test]
fn a_spread_drain_ends_each_stream_at_a_moment_of_its_own() {
    for (random, moment) in [(0.0, 0), (0.25, 5), (0.999, 20)] {
        let mut stream = Harness::plain(policy());
        stream.data(b"data: a\n\n");
        let spread = drain(20, 60, None);
        stream.drained(&spread, random, secs(moment).saturating_sub(Duration::from_millis(100)));
        if moment > 0 {
            assert_eq!(stream.pair.ended(), None, "{random}");
            stream.data(b"data: b\n\n");
            // It keeps its moment: events do not draw again.
            stream.pair.drain(&spread, || 0.0, stream.now);
            stream.pass(Duration::ZERO);
            assert_eq!(stream.pair.ended(), None, "{random}");
        }
        stream.drained(&spread, 0.9, Duration::from_millis(100));
        assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::Drain), true), "{random}");
        assert!(stream.sent().starts_with("data: a\n\n"));
    }
}

#[test]
fn a_stream_within_an_event_has_until_the_limit_of_the_drain() {
    let spread = drain(10, 60, None);
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n");
    stream.drained(&spread, 0.5, secs(59));
    assert_eq!(stream.pair.ended(), None);
    stream.drained(&spread, 0.5, secs(1));
    assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::Drain), false));
}

#[test]
fn a_second_drain_without_spread_ends_streams_that_wait_for_their_moment() {
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n\n");
    stream.drained(&drain(100, 200, None), 0.9, secs(1));
    assert_eq!(stream.pair.ended(), None);
    stream.drained(&drain(0, 1, None), 0.9, Duration::ZERO);
    assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::Drain), true));
}

#[test]
fn a_stream_that_begins_during_a_drain_ends_within_what_is_left_of_it() {
    let mut stream = Harness::plain(policy());
    stream.now = Millis(19_000);
    stream.data(b"data: a\n\n");
    stream.drained(&drain(20, 60, None), 0.5, Duration::from_millis(400));
    assert_eq!(stream.pair.ended(), None);
    stream.drained(&drain(20, 60, None), 0.5, Duration::from_millis(100));
    assert_eq!(stream.pair.ended(), Some(EndReason::Drain));
}

#[test]
fn a_retry_field_stands_at_the_end_of_streams_that_end_between_events() {
    let retried = |framing, bytes: &[u8], reason: EndReason, identity: bool| {
        let mut limited = policy();
        limited.heartbeat = None;
        if reason == EndReason::Lifetime {
            limited.timeouts.lifetime = Some(secs(5));
            limited.timeouts.lifetime_retry = Some(RetryRange::new(secs(3), secs(3)));
        }
        let mut stream = Harness::with(limited, framing, Body::UntilClose, identity);
        stream.data(bytes);
        match reason {
            EndReason::Drain => stream.drained(&drain(2, 20, Some((3, 3))), 0.5, secs(10)),
            EndReason::Admin => stream.pair.close(reason, secs(1), stream.now),
            _ => stream.pass(secs(5)),
        }
        stream.data(b"more\n\n");
        stream.pass(secs(11));
        assert_eq!(stream.pair.ended(), Some(reason));
        stream.sent()
    };
    let (whole, half) = (b"data: a\n\n", b"data: a\ndata: ");
    assert_eq!(retried(Framing::Plain, whole, EndReason::Drain, true), "data: a\n\nretry: 3000\n\n");
    assert_eq!(retried(Framing::Plain, whole, EndReason::Lifetime, true), "data: a\n\nretry: 3000\n\n");
    assert_eq!(retried(Framing::Http2, whole, EndReason::Lifetime, true), "data: a\n\nretry: 3000\n\n");
    assert_eq!(retried(Framing::Plain, half, EndReason::Drain, true), "data: a\ndata: more\n\nretry: 3000\n\n");
    assert_eq!(
        retried(Framing::Chunked, whole, EndReason::Drain, true),
        "9\r\ndata: a\n\n\r\nd\r\nretry: 3000\n\n\r\n0\r\n\r\n"
    );
    assert_eq!(retried(Framing::Plain, whole, EndReason::Admin, true), "data: a\n\n");
    assert_eq!(retried(Framing::Plain, whole, EndReason::Drain, false), "data: a\n\n", "events cannot be seen");
}

#[test]
fn another_policy_counts_what_has_been_waited_for_already() {
    let begun = || {
        let mut stream = Harness::plain(policy());
        stream.data(b"data: a\n\n");
        stream.pass(secs(10));
        stream
    };

    let mut faster = begun();
    faster.set_policy(|policy| {
        policy.heartbeat = Some(HeartbeatPolicy::new(secs(12), Heartbeat::default()));
    });
    faster.pass(secs(1));
    assert_eq!(faster.pair.counts().heartbeats, 0);
    faster.pass(secs(1));
    assert_eq!(faster.pair.counts().heartbeats, 1, "12 s after the last write");

    let mut none = begun();
    none.set_policy(|policy| policy.heartbeat = None);
    none.pass(HEARTBEAT);
    assert_eq!(none.pair.counts().heartbeats, 0);

    let mut shorter = begun();
    assert_eq!(shorter.pair.silence(shorter.now), Some(secs(10)));
    shorter.set_policy(|policy| policy.timeouts.idle = Some(secs(20)));
    assert_eq!(shorter.pair.silence(shorter.now), Some(secs(10)));
    shorter.pass(secs(9));
    assert_eq!(shorter.pair.ended(), None);
    shorter.pass(secs(1));
    assert_eq!(shorter.pair.ended(), Some(EndReason::IdleTimeout));

    let mut unlimited = begun();
    unlimited.set_policy(|policy| policy.timeouts.idle = None);
    unlimited.pass(2 * IDLE);
    assert_eq!((unlimited.pair.ended(), unlimited.pair.silence(unlimited.now)), (None, None));
    unlimited.set_policy(|policy| policy.timeouts.idle = Some(secs(20)));
    unlimited.pass(secs(19));
    assert_eq!(unlimited.pair.ended(), None, "nothing is known of the time without a limit");

    let mut stalled = begun();
    stalled.pair.wrote(false, true, stalled.now);
    stalled.pass(secs(5));
    stalled.set_policy(|policy| policy.timeouts.write = Some(secs(7)));
    stalled.pass(secs(1));
    assert_eq!(stalled.pair.ended(), None);
    stalled.pass(secs(1));
    assert_eq!(stalled.pair.ended(), Some(EndReason::WriteTimeout));
}

#[test]
fn another_lifetime_counts_from_the_beginning_and_ends_older_streams_apart() {
    let at = |now: u64, lifetime: Option<u64>, jitter: f64| {
        let mut rules = policy();
        rules.timeouts.idle = None;
        rules.heartbeat = None;
        let mut stream = Harness::plain(rules);
        stream.now = Millis(1000 * now);
        stream.set_policy(|policy| {
            (policy.timeouts.lifetime, policy.timeouts.lifetime_jitter) = (lifetime.map(secs), jitter);
        });
        stream.pair.next_deadline().map(|due| due.0 / 1000)
    };
    assert_eq!(at(10, Some(100), 0.0), Some(100));
    assert_eq!(at(10, Some(100), 0.2), Some(90), "jittered by the half of 20 %");
    assert_eq!(at(500, Some(100), 0.2), Some(510), "overdue: within the jitter from now");
    assert_eq!(at(10, None, 0.2), None);

    let opening = Opening {
        policy: Arc::new(policy()),
        body: Body::UntilClose,
        framing: Framing::Plain,
        identity: true,
        random: 0.0,
        lifetime: Some(secs(7)),
    };
    let mut own = Harness { pair: Pair::new(opening.clone(), Millis(0)), now: Millis(0), sent: Vec::new() };
    own.set_policy(|policy| policy.timeouts.lifetime = Some(secs(100)));
    own.pass(secs(7));
    assert_eq!(own.pair.ended(), Some(EndReason::Lifetime), "the backend's lifetime stays");

    let limited = |lifetime: Duration| {
        let mut policy = policy();
        (policy.timeouts.lifetime, policy.timeouts.idle, policy.heartbeat) = (Some(secs(5)), None, None);
        let opening = Opening { policy: Arc::new(policy), lifetime: Some(lifetime), ..opening.clone() };
        Pair::new(opening, Millis(0)).next_deadline()
    };
    assert_eq!(limited(secs(7)), Some(Millis(7000)), "in place of the route's");
    assert_eq!(limited(Duration::ZERO), None, "none");
}

#[test]
fn a_heartbeat_that_the_backend_has_set_stays_when_the_rules_change() {
    for (interval, heartbeats) in [(3, 2), (0, 0)] {
        let mut stream = Harness::plain(policy().with_heartbeat_of_backend(secs(interval)));
        stream.set_policy(|policy| {
            policy.heartbeat = Some(HeartbeatPolicy::new(secs(1), Heartbeat::default()));
            policy.backend_heartbeat = None;
        });
        stream.pass(secs(8));
        assert_eq!(stream.pair.counts().heartbeats, heartbeats, "every {interval} s");
    }
    let mut without = policy();
    without.heartbeat = None;
    let mut stream = Harness::plain(without.with_heartbeat_of_backend(secs(5)));
    stream.pass(secs(5));
    assert_eq!(stream.sent(), ":\n\n", "a comment, where the route has none");
}
