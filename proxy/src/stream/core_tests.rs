//! The core under an owned clock: every deadline, every order of events, and random operations against an oracle.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::core::BREAK_PAUSE;
use super::*;
use crate::sse::Heartbeat;
use crate::wire::body::Body;
use crate::wire::chunked::{self, Decoder, Piece};

const HEARTBEAT: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(300);
const WRITE: Duration = Duration::from_secs(10);

fn policy() -> Policy {
    Policy {
        heartbeat: Some(HeartbeatPolicy { interval: HEARTBEAT, heartbeat: Heartbeat::default() }),
        timeouts: Timeouts { idle: Some(IDLE), write: Some(WRITE), ..Timeouts::default() },
        ..Policy::default()
    }
}

/// A core, its clock, and everything the client has been sent.
struct Harness {
    core: Core,
    now: Millis,
    sent: Vec<u8>,
}

impl Harness {
    fn with(policy: Policy, framing: Framing, body: Body, identity: bool) -> Self {
        let opening = Opening { policy: Arc::new(policy), body, framing, identity, random: 0.0 };
        Self { core: Core::new(opening, Millis(0)), now: Millis(0), sent: Vec::new() }
    }

    fn plain(policy: Policy) -> Self {
        Self::with(policy, Framing::Plain, Body::UntilClose, true)
    }

    fn data(&mut self, bytes: &[u8]) -> Progress {
        let progress = self.core.upstream_data(bytes, self.now, &mut self.sent);
        self.core.wrote(true, false, self.now);
        progress
    }

    /// Moves the clock to each deadline on the way, as a driver's timer would.
    fn pass(&mut self, by: Duration) {
        let until = self.now.after(by);
        while let Some(next) = self.core.next_deadline().filter(|next| *next <= until) {
            self.now = next.max(self.now);
            let before = self.sent.len();
            self.core.tick(self.now, &mut self.sent);
            if self.sent.len() > before {
                self.core.wrote(true, false, self.now);
            }
        }
        self.now = until;
    }

    fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent).into_owned()
    }
}

fn secs(seconds: u64) -> Duration {
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
    assert_eq!(stream.core.counts().heartbeats, 3);
}

#[test]
fn a_write_puts_the_heartbeat_off() {
    let mut stream = Harness::plain(policy());
    for _ in 0..10 {
        stream.pass(secs(10));
        stream.data(b"data: a\n\n");
    }
    assert_eq!(stream.core.counts().heartbeats, 0);
}

#[test]
fn heartbeat_waits_for_event_boundary() {
    let mut stream = Harness::plain(policy());
    stream.data(b"event: x\n");
    stream.pass(secs(100));
    assert_eq!(stream.core.counts().heartbeats, 0);
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
            stream.core.upstream_closed(now, &mut stream.sent);
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
    assert_eq!(stream.core.ended(), Some(EndReason::IdleTimeout));
    assert!(!stream.core.ended_clean());
    assert_eq!(stream.core.counts().heartbeats, 19);
}

#[test]
fn upstream_comments_count_as_activity_unless_told_otherwise() {
    for (ignores, ended) in [(false, None), (true, Some(EndReason::IdleTimeout))] {
        let mut stream = Harness::plain(Policy { idle_ignores_comments: ignores, ..policy() });
        for _ in 0..40 {
            stream.data(b": still here\n\n");
            stream.pass(secs(10));
        }
        assert_eq!(stream.core.ended(), ended, "ignores comments: {ignores}");
    }
}

#[test]
fn a_client_that_reads_nothing_times_out_though_the_upstream_is_not_read() {
    let mut stream = Harness::plain(policy());
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(false, true, stream.now);
    assert!(!stream.core.wants_upstream());
    stream.pass(secs(9));
    stream.core.wrote(true, true, stream.now);
    stream.pass(secs(9));
    assert_eq!(stream.core.ended(), None, "progress moves the deadline");
    stream.core.wrote(false, true, stream.now);
    stream.pass(secs(1));
    assert_eq!(stream.core.ended(), Some(EndReason::WriteTimeout));
    assert_eq!(stream.core.next_deadline(), None);
}

#[test]
fn no_heartbeat_is_queued_behind_pending_bytes() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(true, true, stream.now);
    stream.pass(secs(100));
    assert_eq!(stream.core.counts().heartbeats, 0);
    stream.core.wrote(true, false, stream.now);
    stream.pass(secs(15));
    assert_eq!(stream.core.counts().heartbeats, 1);
}

#[test]
fn idle_fires_while_a_write_is_blocked() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(true, true, stream.now);
    stream.pass(IDLE);
    assert_eq!(stream.core.ended(), Some(EndReason::IdleTimeout));
    assert!(stream.core.next_deadline().is_some(), "the pending bytes of an ended stream do not wait for ever");
}

#[test]
fn a_client_that_goes_before_the_last_bytes_are_written_is_the_reason() {
    for (rest, reason) in [(true, EndReason::ClientGone), (false, EndReason::IdleTimeout)] {
        let mut no_write_limit = policy();
        no_write_limit.timeouts.write = None;
        let mut stream = Harness::plain(no_write_limit);
        stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
        stream.core.wrote(true, rest, stream.now);
        stream.now = stream.now.after(IDLE);
        stream.core.tick(stream.now, &mut stream.sent);
        assert_eq!(stream.core.ended(), Some(EndReason::IdleTimeout));
        stream.core.client_gone();
        assert_eq!(stream.core.ended(), Some(reason), "bytes were left to write: {rest}");
    }
}

#[test]
fn a_second_close_only_shortens_the_limit() {
    for (second, cut_after) in [(90, 10), (2, 2)] {
        let mut stream = Harness::plain(policy());
        stream.data(b"data: half");
        stream.core.close(EndReason::Drain, secs(10), stream.now);
        stream.core.close(EndReason::Lifetime, secs(second), stream.now);
        stream.pass(secs(cut_after - 1));
        assert_eq!(stream.core.ended(), None, "{second}");
        stream.pass(secs(1));
        assert_eq!(stream.core.ended(), Some(EndReason::Drain), "{second}");
    }
}

#[test]
fn an_upstream_whose_bytes_wait_for_the_client_is_not_idle() {
    let mut no_write_limit = policy();
    no_write_limit.timeouts.write = None;
    let mut stream = Harness::plain(no_write_limit);
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(true, true, stream.now);
    stream.now = stream.now.after(IDLE);
    assert!(stream.core.suspects_idle(stream.now));
    stream.core.upstream_waits(stream.now);
    stream.core.tick(stream.now, &mut stream.sent);
    assert_eq!(stream.core.ended(), None);
    stream.core.wrote(true, false, stream.now);
    assert!(
        !stream.core.suspects_idle(stream.now.after(IDLE)),
        "the idle timeout applies once the upstream is read again"
    );
}

#[test]
fn a_drain_does_not_wait_beyond_its_limit_for_a_client_that_is_behind() {
    let mut stream = Harness::plain(policy());
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(false, true, stream.now);
    stream.core.close(EndReason::Drain, secs(1), stream.now);
    stream.pass(secs(1));
    assert_eq!((stream.core.ended(), stream.core.abandoned()), (Some(EndReason::Drain), true));
}

#[test]
fn lifetime_ends_a_stream_at_the_boundary_in_order() {
    let mut limited = policy();
    limited.timeouts.lifetime = Some(secs(60));
    let mut stream = Harness::with(limited, Framing::Chunked, Body::UntilClose, true);
    stream.data(b"data: a\n\nevent: b\n");
    stream.pass(secs(61));
    assert_eq!(stream.core.ended(), None);
    stream.data(b"data: b\n\ndata: never sent\n\n");
    assert_eq!(stream.core.ended(), Some(EndReason::Lifetime));
    assert!(stream.core.ended_clean());
    assert!(stream.sent().ends_with("9\r\ndata: b\n\n\r\n0\r\n\r\n"), "{}", stream.sent());
}

#[test]
fn lifetime_cuts_a_stream_that_reaches_no_boundary() {
    let mut limited = policy();
    limited.timeouts.lifetime = Some(secs(60));
    let mut stream = Harness::with(limited, Framing::Chunked, Body::UntilClose, true);
    stream.data(b"event: b\n");
    stream.pass(secs(71));
    assert_eq!(stream.core.ended(), Some(EndReason::Lifetime));
    assert!(!stream.core.ended_clean());
    assert!(!stream.sent().contains("0\r\n\r\n"));
}

#[test]
fn drain_ends_at_once_between_events_and_waits_inside_one() {
    let mut between = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
    between.data(b"data: a\n\n");
    between.core.close(EndReason::Drain, secs(5), between.now);
    between.pass(Duration::ZERO);
    assert_eq!(between.core.ended(), Some(EndReason::Drain));
    assert!(between.core.ended_clean());

    let mut inside = Harness::plain(policy());
    inside.data(b"data: a\n");
    inside.core.close(EndReason::Drain, secs(5), inside.now);
    inside.pass(secs(4));
    assert_eq!(inside.core.ended(), None);
    inside.data(b"\n");
    assert_eq!((inside.core.ended(), inside.core.ended_clean()), (Some(EndReason::Drain), true));

    let mut never = Harness::plain(policy());
    never.data(b"data: a\n");
    never.core.close(EndReason::Drain, secs(5), never.now);
    never.pass(secs(5));
    assert_eq!((never.core.ended(), never.core.ended_clean()), (Some(EndReason::Drain), false));
}

#[test]
fn drain_waits_for_a_blocked_client_to_take_its_bytes() {
    let mut stream = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
    stream.core.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.core.wrote(true, true, stream.now);
    stream.core.close(EndReason::Drain, secs(5), stream.now);
    stream.pass(secs(1));
    assert_eq!(stream.core.ended(), None);
    stream.core.wrote(true, false, stream.now);
    stream.pass(Duration::ZERO);
    assert_eq!((stream.core.ended(), stream.core.ended_clean()), (Some(EndReason::Drain), true));
}

#[test]
fn upstream_ends_are_told_apart() {
    let chunked = || Body::Chunked(Decoder::default());
    let mut clean = Harness::with(policy(), Framing::Chunked, chunked(), true);
    clean.data(b"3\r\n:a\n\r\n0\r\nChecksum: 1\r\n\r\n");
    assert_eq!((clean.core.ended(), clean.core.ended_clean()), (Some(EndReason::UpstreamEnd), true));
    assert_eq!(clean.sent(), "3\r\n:a\n\r\n0\r\nChecksum: 1\r\n\r\n");

    let mut cut = Harness::with(policy(), Framing::Chunked, chunked(), true);
    cut.data(b"3\r\n:a\n\r\n");
    cut.core.upstream_closed(cut.now, &mut cut.sent);
    assert_eq!((cut.core.ended(), cut.core.ended_clean()), (Some(EndReason::UpstreamBroken), false));
    assert_eq!(cut.sent(), "3\r\n:a\n\r\n", "received bytes are forwarded before the broken end is signalled");
    cut.pass(secs(1));
    assert_eq!(cut.sent(), "3\r\n:a\n\r\nff\n");

    let mut nonsense = Harness::with(policy(), Framing::Chunked, chunked(), true);
    nonsense.data(b"3\r\n:a\n\r\nzz\r\n");
    assert_eq!((nonsense.core.ended(), nonsense.core.ended_clean()), (Some(EndReason::UpstreamProtocol), false));

    let mut counted = Harness::with(policy(), Framing::Plain, Body::Length(3), true);
    counted.data(b":a\n");
    assert_eq!((counted.core.ended(), counted.core.ended_clean()), (Some(EndReason::UpstreamEnd), true));
}

/// Invariant: a stream does not wait for a boundary that cannot be seen. Mechanism: no boundary is seen in a coded
/// body, and a drain or the end of the lifetime waited for one. Symptom: every shutdown took the whole of
/// `drain.timeout`.
#[test]
fn a_coded_stream_ends_at_once_and_broken_on_drain_and_lifetime() {
    let coded = |policy| Harness::with(policy, Framing::Chunked, Body::UntilClose, false);
    let mut drained = coded(policy());
    drained.data(b"\x1f\x8b\n\n");
    drained.core.close(EndReason::Drain, secs(30), drained.now);
    assert_eq!((drained.core.ended(), drained.core.ended_clean()), (Some(EndReason::Drain), false));
    drained.pass(secs(1));
    assert!(drained.sent.ends_with(chunked::BROKEN_CHUNK));

    let lifetime = Some(secs(60));
    let mut old = coded(Policy { timeouts: Timeouts { lifetime, ..policy().timeouts }, ..policy() });
    old.data(b"\x1f\x8b\n\n");
    old.pass(secs(59));
    assert_eq!(old.core.ended(), None);
    old.pass(secs(1));
    assert_eq!((old.core.ended(), old.core.ended_clean()), (Some(EndReason::Lifetime), false));
}

/// Invariant: a client gets every event before a broken end, and then the error. Mechanism: clients and proxies in
/// front drop bytes that they have not passed on when they see the error. Symptom: Chromium did not deliver the last
/// events.
#[test]
fn a_broken_end_is_signalled_once_after_a_pause() {
    for (framing, told) in [(Framing::Chunked, "ff\n"), (Framing::Plain, "")] {
        let mut stream = Harness::with(policy(), framing, Body::Length(99), true);
        stream.core.upstream_data(b":a\n", stream.now, &mut stream.sent);
        stream.core.wrote(true, true, stream.now);
        stream.core.upstream_failed(stream.now);
        stream.pass(secs(5));
        assert!(stream.core.breaks_later(), "the client is behind");
        stream.core.wrote(true, false, stream.now);
        let sent = stream.sent();
        stream.pass(BREAK_PAUSE - Duration::from_millis(1));
        assert!(stream.core.breaks_later());
        assert_eq!(stream.sent(), sent);
        stream.pass(Duration::from_millis(1));
        assert!(!stream.core.breaks_later());
        stream.pass(secs(60));
        assert_eq!(stream.sent(), format!("{sent}{told}"));
        assert_eq!((stream.core.ended(), stream.core.ended_clean()), (Some(EndReason::UpstreamBroken), false));
    }
    let mut http2 = Harness::with(policy(), Framing::Http2, Body::UntilClose, true);
    http2.core.upstream_failed(http2.now);
    assert!(!http2.core.breaks_later(), "the transport signals it");

    let mut left = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
    left.core.upstream_failed(left.now);
    left.core.client_gone();
    assert!(!left.core.breaks_later(), "the client is gone");
    assert_eq!(left.core.ended(), Some(EndReason::UpstreamBroken));
}

#[test]
fn a_client_that_disconnects_ends_the_stream_in_any_state() {
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n");
    stream.core.client_gone();
    assert_eq!((stream.core.ended(), stream.core.ended_clean()), (Some(EndReason::ClientGone), false));
    assert_eq!(stream.core.next_deadline(), None);
}

/// Invariant: a stream ends once, with one reason. Mechanism: after the kernel timed a client out, the next write
/// failed with another error, whose reason replaced the first. Symptom: a stalled client was logged as `client_gone`.
#[test]
fn the_first_failure_of_a_client_is_the_reason() {
    let mut stalled = Harness::plain(policy());
    stalled.core.client_stalled();
    stalled.core.client_gone();
    assert_eq!(stalled.core.ended(), Some(EndReason::WriteTimeout));

    let mut gone = Harness::plain(policy());
    gone.core.client_gone();
    gone.core.client_stalled();
    assert_eq!(gone.core.ended(), Some(EndReason::ClientGone));
}

#[derive(Clone, Debug)]
enum Operation {
    Upstream(Vec<u8>),
    Writable(usize),
    Pass(u64),
    Drain,
}

fn operation() -> impl Strategy<Value = Operation> {
    let byte = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(0xEF), Just(0xBB), Just(0xBF)];
    prop_oneof![
        4 => proptest::collection::vec(byte, 0..12).prop_map(Operation::Upstream),
        3 => (0usize..40).prop_map(Operation::Writable),
        3 => (0u64..40_000).prop_map(Operation::Pass),
        1 => Just(Operation::Drain),
    ]
}

/// The body inside a chunked response that may have been cut anywhere.
fn dechunk(wire: &[u8]) -> Vec<u8> {
    let (mut decoder, mut input, mut body) = (Decoder::default(), wire, Vec::new());
    while let Ok(Some(piece)) = decoder.next(&mut input) {
        match piece {
            Piece::Data(data) => body.extend_from_slice(data),
            Piece::Trailer(_) => {}
            Piece::End => break,
        }
    }
    body
}

proptest! {
    /// Whatever happens in whatever order: the client gets a prefix of what the upstream sent, in order and once, and
    /// the only additions are heartbeats. The heartbeat here cannot occur in the input, so taking every one of them out
    /// leaves exactly the upstream's bytes (less a byte order mark that a heartbeat came before).
    #[test]
    fn the_client_gets_the_upstreams_bytes_and_heartbeats_and_nothing_else(
        operations in proptest::collection::vec(operation(), 0..60)
    ) {
        let mut rules = policy();
        rules.heartbeat = Some(HeartbeatPolicy {
            interval: HEARTBEAT,
            heartbeat: Heartbeat::new(crate::sse::HeartbeatStyle::Comment, "HEARTBEAT").expect("valid"),
        });
        let opening = Opening {
            policy: Arc::new(rules), body: Body::UntilClose, framing: Framing::Chunked, identity: true, random: 0.0
        };
        let mut core = Core::new(opening, Millis(0));
        let (mut now, mut upstream, mut client, mut pending) = (Millis(0), Vec::new(), Vec::new(), Vec::new());
        for operation in operations {
            let before = pending.len();
            match operation {
                Operation::Upstream(bytes) if core.wants_upstream() => {
                    upstream.extend_from_slice(&bytes);
                    core.upstream_data(&bytes, now, &mut pending);
                }
                Operation::Upstream(_) => {}
                Operation::Writable(room) => {
                    let taken = room.min(pending.len());
                    client.extend(pending.drain(..taken));
                    core.wrote(taken > 0, !pending.is_empty(), now);
                }
                Operation::Pass(millis) => {
                    now = Millis(now.0 + millis);
                    core.tick(now, &mut pending);
                }
                Operation::Drain => core.close(EndReason::Drain, secs(5), now),
            }
            if pending.len() > before {
                core.wrote(false, true, now);
            }
            prop_assert!(core.ended().is_none() || !core.wants_upstream());
        }
        if !core.abandoned() {
            client.extend_from_slice(&pending);
        }
        let body = dechunk(&client);
        let text = body.escape_ascii().to_string();
        let without = text.replace(": HEARTBEAT\\n\\n", "");
        let sent = upstream.escape_ascii().to_string();
        let bom = "\\xef\\xbb\\xbf";
        let expected = if text.starts_with(": HEARTBEAT") { sent.strip_prefix(bom).unwrap_or(&sent).to_owned() } else { sent };
        if core.ended().is_none() && !matches!(expected.as_str(), "\\xef" | "\\xef\\xbb") {
            prop_assert_eq!(&without, &expected);
        } else if !core.abandoned() {
            prop_assert!(expected.starts_with(&without), "{} is no prefix of {}", without, expected);
        }
        if core.ended_clean() {
            prop_assert!(client.ends_with(chunked::LAST_CHUNK));
        } else if core.ended().is_some() && !core.abandoned() {
            prop_assert_eq!(client.ends_with(chunked::BROKEN_CHUNK), !core.breaks_later());
        }
    }
}
