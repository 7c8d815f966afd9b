//! A pair under an owned clock: every way to end.

use std::time::Duration;

use super::pair_tests::{Harness, IDLE, policy, secs};
use super::sink::BREAK_PAUSE;
use super::*;
use crate::wire::body::Body;
use crate::wire::chunked::{self, Decoder};

#[test]
fn lifetime_ends_a_stream_at_the_boundary_in_order() {
    let mut limited = policy();
    limited.timeouts.lifetime = Some(secs(60));
    let mut stream = Harness::with(limited, Framing::Chunked, Body::UntilClose, true);
    stream.data(b"data: a\n\nevent: b\n");
    stream.pass(secs(61));
    assert_eq!(stream.pair.ended(), None);
    stream.data(b"data: b\n\ndata: never sent\n\n");
    assert_eq!(stream.pair.ended(), Some(EndReason::Lifetime));
    assert!(stream.pair.ended_clean());
    assert!(stream.sent().ends_with("9\r\ndata: b\n\n\r\n0\r\n\r\n"), "{}", stream.sent());
}

#[test]
fn lifetime_cuts_a_stream_that_reaches_no_boundary() {
    let mut limited = policy();
    limited.timeouts.lifetime = Some(secs(60));
    let mut stream = Harness::with(limited, Framing::Chunked, Body::UntilClose, true);
    stream.data(b"event: b\n");
    stream.pass(secs(71));
    assert_eq!(stream.pair.ended(), Some(EndReason::Lifetime));
    assert!(!stream.pair.ended_clean());
    assert!(!stream.sent().contains("0\r\n\r\n"));
}

#[test]
fn drain_ends_at_once_between_events_and_waits_inside_one() {
    for limit in [secs(5), Duration::ZERO] {
        let mut between = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
        between.data(b"data: a\n\n");
        between.pair.close(EndReason::Drain, limit, between.now);
        between.pass(Duration::ZERO);
        assert_eq!((between.pair.ended(), between.pair.ended_clean()), (Some(EndReason::Drain), true));
    }

    let mut inside = Harness::plain(policy());
    inside.data(b"data: a\n");
    inside.pair.close(EndReason::Drain, secs(5), inside.now);
    inside.pass(secs(4));
    assert_eq!(inside.pair.ended(), None);
    inside.data(b"\n");
    assert_eq!((inside.pair.ended(), inside.pair.ended_clean()), (Some(EndReason::Drain), true));

    let mut never = Harness::plain(policy());
    never.data(b"data: a\n");
    never.pair.close(EndReason::Drain, secs(5), never.now);
    never.pass(secs(5));
    assert_eq!((never.pair.ended(), never.pair.ended_clean()), (Some(EndReason::Drain), false));
}

#[test]
fn drain_waits_for_a_blocked_client_to_take_its_bytes() {
    let mut stream = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
    stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
    stream.pair.wrote(true, true, stream.now);
    stream.pair.close(EndReason::Drain, secs(5), stream.now);
    stream.pass(secs(1));
    assert_eq!(stream.pair.ended(), None);
    stream.pair.wrote(true, false, stream.now);
    stream.pass(Duration::ZERO);
    assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::Drain), true));
}

#[test]
fn upstream_ends_are_told_apart() {
    let chunked = || Body::Chunked(Decoder::default());
    let mut clean = Harness::with(policy(), Framing::Chunked, chunked(), true);
    clean.data(b"3\r\n:a\n\r\n0\r\nChecksum: 1\r\n\r\n");
    assert_eq!((clean.pair.ended(), clean.pair.ended_clean()), (Some(EndReason::UpstreamEnd), true));
    assert_eq!(clean.sent(), "3\r\n:a\n\r\n0\r\nChecksum: 1\r\n\r\n");

    let mut cut = Harness::with(policy(), Framing::Chunked, chunked(), true);
    cut.data(b"3\r\n:a\n\r\n");
    cut.pair.upstream_closed(cut.now, &mut cut.sent);
    assert_eq!((cut.pair.ended(), cut.pair.ended_clean()), (Some(EndReason::UpstreamBroken), false));
    assert_eq!(cut.sent(), "3\r\n:a\n\r\n", "received bytes are forwarded before the broken end is signalled");
    cut.pass(secs(1));
    assert_eq!(cut.sent(), "3\r\n:a\n\r\nff\n");

    let mut nonsense = Harness::with(policy(), Framing::Chunked, chunked(), true);
    nonsense.data(b"3\r\n:a\n\r\nzz\r\n");
    assert_eq!((nonsense.pair.ended(), nonsense.pair.ended_clean()), (Some(EndReason::UpstreamProtocol), false));

    let mut counted = Harness::with(policy(), Framing::Plain, Body::Length(3), true);
    counted.data(b":a\n");
    assert_eq!((counted.pair.ended(), counted.pair.ended_clean()), (Some(EndReason::UpstreamEnd), true));
}

/// Invariant: a stream does not wait for a boundary that cannot be seen. Mechanism: no boundary is seen in a coded
/// body, and a drain or the end of the lifetime waited for one. Symptom: every shutdown took the whole of
/// `drain.timeout`.
#[test]
fn a_coded_stream_ends_at_once_and_broken_on_drain_and_lifetime() {
    let coded = |policy| Harness::with(policy, Framing::Chunked, Body::UntilClose, false);
    let mut drained = coded(policy());
    drained.data(b"\x1f\x8b\n\n");
    drained.pair.close(EndReason::Drain, secs(30), drained.now);
    assert_eq!((drained.pair.ended(), drained.pair.ended_clean()), (Some(EndReason::Drain), false));
    drained.pass(secs(1));
    assert!(drained.sent.ends_with(chunked::BROKEN_CHUNK));

    let lifetime = Some(secs(60));
    let mut old = coded(Policy { timeouts: Timeouts { lifetime, ..policy().timeouts }, ..policy() });
    old.data(b"\x1f\x8b\n\n");
    old.pass(secs(59));
    assert_eq!(old.pair.ended(), None);
    old.pass(secs(1));
    assert_eq!((old.pair.ended(), old.pair.ended_clean()), (Some(EndReason::Lifetime), false));
}

/// Invariant: a client gets every event before a broken end, and then the error. Mechanism: clients and proxies in
/// front drop bytes that they have not passed on when they see the error. Symptom: Chromium did not deliver the last
/// events.
#[test]
fn a_broken_end_is_signalled_once_after_a_pause() {
    for (framing, told) in [(Framing::Chunked, "ff\n"), (Framing::Plain, "")] {
        let mut stream = Harness::with(policy(), framing, Body::Length(99), true);
        stream.pair.upstream_data(b":a\n", stream.now, &mut stream.sent);
        stream.pair.wrote(true, true, stream.now);
        stream.pair.upstream_failed(stream.now);
        stream.pass(secs(5));
        assert!(stream.pair.breaks_later(), "the client is behind");
        stream.pair.wrote(true, false, stream.now);
        let sent = stream.sent();
        stream.pass(BREAK_PAUSE - Duration::from_millis(1));
        assert!(stream.pair.breaks_later());
        assert_eq!(stream.sent(), sent);
        stream.pass(Duration::from_millis(1));
        assert!(!stream.pair.breaks_later());
        stream.pass(secs(60));
        assert_eq!(stream.sent(), format!("{sent}{told}"));
        assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::UpstreamBroken), false));
    }
    let mut http2 = Harness::with(policy(), Framing::Http2, Body::UntilClose, true);
    http2.pair.upstream_failed(http2.now);
    assert!(!http2.pair.breaks_later(), "the transport signals it");

    let mut left = Harness::with(policy(), Framing::Chunked, Body::UntilClose, true);
    left.pair.upstream_failed(left.now);
    left.pair.client_gone();
    assert!(!left.pair.breaks_later(), "the client is gone");
    assert_eq!(left.pair.ended(), Some(EndReason::UpstreamBroken));
}

#[test]
fn a_client_that_disconnects_ends_the_stream_in_any_state() {
    let mut stream = Harness::plain(policy());
    stream.data(b"data: a\n");
    stream.pair.client_gone();
    assert_eq!((stream.pair.ended(), stream.pair.ended_clean()), (Some(EndReason::ClientGone), false));
    assert_eq!(stream.pair.next_deadline(), None);
}

/// Invariant: a stream ends once, with one reason. Mechanism: after the kernel timed a client out, the next write
/// failed with another error, whose reason replaced the first. Symptom: a stalled client was logged as `client_gone`.
#[test]
fn the_first_failure_of_a_client_is_the_reason() {
    let mut stalled = Harness::plain(policy());
    stalled.pair.client_stalled();
    stalled.pair.client_gone();
    assert_eq!(stalled.pair.ended(), Some(EndReason::WriteTimeout));

    let mut gone = Harness::plain(policy());
    gone.pair.client_gone();
    gone.pair.client_stalled();
    assert_eq!(gone.pair.ended(), Some(EndReason::ClientGone));
}

#[test]
fn a_client_that_goes_before_the_last_bytes_are_written_is_the_reason() {
    for (rest, reason) in [(true, EndReason::ClientGone), (false, EndReason::IdleTimeout)] {
        let mut no_write_limit = policy();
        no_write_limit.timeouts.write = None;
        let mut stream = Harness::plain(no_write_limit);
        stream.pair.upstream_data(b"data: a\n\n", stream.now, &mut stream.sent);
        stream.pair.wrote(true, rest, stream.now);
        stream.now = stream.now.after(IDLE);
        stream.pair.tick(stream.now, &mut stream.sent);
        assert_eq!(stream.pair.ended(), Some(EndReason::IdleTimeout));
        stream.pair.client_gone();
        assert_eq!(stream.pair.ended(), Some(reason), "bytes were left to write: {rest}");
    }
}

#[test]
fn a_second_close_only_shortens_the_limit() {
    for (second, cut_after) in [(90, 10), (2, 2)] {
        let mut stream = Harness::plain(policy());
        stream.data(b"data: half");
        stream.pair.close(EndReason::Drain, secs(10), stream.now);
        stream.pair.close(EndReason::Lifetime, secs(second), stream.now);
        stream.pass(secs(cut_after - 1));
        assert_eq!(stream.pair.ended(), None, "{second}");
        stream.pass(secs(1));
        assert_eq!(stream.pair.ended(), Some(EndReason::Drain), "{second}");
    }
}
