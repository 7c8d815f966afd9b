//! A source alone: every split, where it stops, what counts as activity, how it ends.

use std::time::Duration;

use super::source::{Source, SourceEnd};
use super::*;
use crate::wire::body::Body;
use crate::wire::chunked::Decoder;

const IDLE: Duration = Duration::from_secs(300);

fn policy(idle_ignores_comments: bool) -> Policy {
    let mut policy = Policy { idle_ignores_comments, ..Policy::default() };
    policy.timeouts.idle = Some(IDLE);
    policy
}

fn source(body: Body) -> Source {
    Source::new(body, true, &policy(false), Millis(0))
}

/// Reads `parts`, one after the other, until the source ends.
fn read(source: &mut Source, parts: &[&[u8]], stop: bool) -> (String, Option<SourceEnd>) {
    let mut got = Vec::new();
    let mut read = |part| source.read(part, stop, &policy(false), Millis(0), |data| got.extend_from_slice(data));
    let end = parts.iter().find_map(|part| read(part));
    (got.escape_ascii().to_string(), end)
}

/// The framing, what is read, whether to stop between events, the body, its events, the end.
type Case = (Body, &'static [u8], bool, &'static str, u64, Option<SourceEnd>);

#[test]
fn every_split_gives_the_same_bytes_events_and_end() {
    use SourceEnd::{Boundary, Complete, Malformed};
    let chunked = Body::Chunked(Decoder::default());
    let cases: [Case; 8] = [
        (Body::UntilClose, b"data: a\n\n: b\n\ndata: c", false, r"data: a\n\n: b\n\ndata: c", 1, None),
        (Body::UntilClose, b"\xEF\xBB\xBFdata: a\n\n", false, r"\xef\xbb\xbfdata: a\n\n", 1, None),
        (Body::Length(9), b"data: a\n\nnot of the body", false, r"data: a\n\n", 1, Some(Complete)),
        (chunked, b"9\r\ndata: a\n\n\r\n0\r\nA: b\r\n\r\n", false, r"data: a\n\n", 1, Some(Complete)),
        (chunked, b"9\r\ndata: a\n\n\r\nzz\r\n", false, r"data: a\n\n", 1, Some(Malformed)),
        (Body::UntilClose, b"data: a\n\ndata: b\n\n", true, "", 0, Some(Boundary)),
        (chunked, b"8\r\ndata: a\n\r\n9\r\n\ndata: b\n\r\n", true, "", 0, Some(Boundary)),
        (Body::UntilClose, b"", true, "", 0, None),
    ];
    for (body, wire, stop, expected, events, end) in cases {
        for cut in 0..=wire.len() {
            let mut source = source(body);
            let got = read(&mut source, &[&wire[..cut], &wire[cut..]], stop);
            let context = format!("{} cut at {cut}", wire.escape_ascii());
            assert_eq!(got, (expected.to_owned(), end), "{context}");
            assert_eq!(source.events(), events, "{context}");
        }
    }
}

#[test]
fn a_source_that_is_to_stop_takes_the_rest_of_the_event_and_counts_no_more() {
    let (begun, rest, next) = (b"data: a\n".as_slice(), b"data: b\n\n".as_slice(), b"data: c\n\n".as_slice());
    let wire = [rest, next].concat();
    for cut in 0..=wire.len() {
        let mut source = source(Body::UntilClose);
        read(&mut source, &[begun], false);
        assert!(!source.is_between_events());
        let got = read(&mut source, &[&wire[..cut], &wire[cut..]], true);
        assert_eq!(got, (rest.escape_ascii().to_string(), Some(SourceEnd::Boundary)), "cut at {cut}");
        assert_eq!((source.bytes(), source.events()), ((begun.len() + rest.len()) as u64, 1), "cut at {cut}");
    }
}

#[test]
fn a_byte_order_mark_is_dropped_only_where_a_heartbeat_was_inserted_before_it() {
    for (wire, with_heartbeat) in [
        (&b"\xEF\xBB\xBFdata: a\n\n"[..], r"data: a\n\n"),
        (b"\xEF\xBBdata: a\n\n", r"\xef\xbbdata: a\n\n"),
        (b"\xEF\xBB\xBF\xEF\xBB\xBFdata", r"\xef\xbb\xbfdata"),
        (b"\xEF\xBB", r"\xef\xbb"),
    ] {
        for cut in 0..=wire.len() {
            let (mut plain, mut guarded) = (source(Body::UntilClose), source(Body::UntilClose));
            guarded.heartbeat_inserted();
            let untouched = wire.escape_ascii().to_string();
            for (source, expected) in [(&mut plain, untouched.as_str()), (&mut guarded, with_heartbeat)] {
                let (mut got, _) = read(source, &[&wire[..cut], &wire[cut..]], false);
                source.finish(|held| got.push_str(&held.escape_ascii().to_string()));
                assert_eq!(got, expected, "{untouched} cut at {cut}");
            }
        }
    }
}

#[test]
fn what_counts_as_activity_moves_the_idle_limit() {
    let later = Millis(1000);
    let (kept, moved) = (Millis(0).after(IDLE), later.after(IDLE));
    // Whether events can be seen, whether comments are ignored, what is read, the limit after it.
    for (identity, ignores, data, limit) in [
        (true, false, &b": a\n\n"[..], moved),
        (true, true, b": a\n\n", kept),
        (true, true, b"data: a", moved),
        (false, true, b": a\n\n", moved),
        (true, false, b"", kept),
    ] {
        let policy = policy(ignores);
        let mut source = Source::new(Body::UntilClose, identity, &policy, Millis(0));
        source.read(data, false, &policy, later, |_| {});
        assert_eq!(source.deadline(), limit, "{identity} {ignores} {}", data.escape_ascii());
        assert!(identity || !source.is_between_events(), "no heartbeat where events cannot be seen");
        source.stop();
        assert_eq!(source.deadline(), Millis::NEVER);
    }
}

#[test]
fn only_a_body_that_is_complete_may_end_with_its_connection() {
    for (body, end) in [
        (Body::UntilClose, SourceEnd::Complete),
        (Body::Length(1), SourceEnd::Broken),
        (Body::Chunked(Decoder::default()), SourceEnd::Broken),
    ] {
        assert_eq!(source(body).closed(), end, "{body:?}");
    }
}
