//! A pair under random operations, against an oracle that knows the whole stream.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::pair_tests::{HEARTBEAT, policy, secs};
use super::*;
use crate::sse::Heartbeat;
use crate::wire::body::Body;
use crate::wire::chunked::{self, Decoder, Piece};

#[derive(Clone, Debug)]
enum Operation {
    Upstream(Vec<u8>),
    Writable(usize),
    Pass(u64),
    Drain,
    /// In milliseconds from now, and where in the spread its moment lies.
    SpreadDrain(u64, f64),
    /// Other rules, with this interval of heartbeats in milliseconds.
    Rules(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let byte = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(0xEF), Just(0xBB), Just(0xBF)];
    prop_oneof![
        4 => proptest::collection::vec(byte, 0..12).prop_map(Operation::Upstream),
        3 => (0usize..40).prop_map(Operation::Writable),
        3 => (0u64..40_000).prop_map(Operation::Pass),
        1 => Just(Operation::Drain),
        1 => (0u64..40_000, 0.0..1.0).prop_map(|(spread, random)| Operation::SpreadDrain(spread, random)),
        1 => (1u64..40_000).prop_map(Operation::Rules),
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
            policy: Arc::new(rules), body: Body::UntilClose, framing: Framing::Chunked, identity: true, random: 0.0, lifetime: None
        };
        let mut pair = Pair::new(opening, Millis(0));
        let (mut now, mut upstream, mut client, mut pending) = (Millis(0), Vec::new(), Vec::new(), Vec::new());
        for operation in operations {
            let before = pending.len();
            match operation {
                Operation::Upstream(bytes) if pair.wants_upstream() => {
                    upstream.extend_from_slice(&bytes);
                    pair.upstream_data(&bytes, now, &mut pending);
                }
                Operation::Upstream(_) => {}
                Operation::Writable(room) => {
                    let taken = room.min(pending.len());
                    client.extend(pending.drain(..taken));
                    pair.wrote(taken > 0, !pending.is_empty(), now);
                }
                Operation::Pass(millis) => {
                    now = Millis(now.0 + millis);
                    pair.tick(now, &mut pending);
                }
                Operation::Drain => pair.close(EndReason::Drain, secs(5), now),
                Operation::SpreadDrain(spread, random) => {
                    let drain = Drain { spread_until: Millis(now.0 + spread), cut_at: Millis(now.0 + 50_000), retry: None };
                    pair.drain(&drain, || random, now);
                }
                Operation::Rules(millis) => {
                    let mut rules = Policy::clone(pair.policy());
                    if let Some(heartbeat) = &mut rules.heartbeat {
                        heartbeat.interval = Duration::from_millis(millis);
                    }
                    pair.set_policy(Arc::new(rules), Millis(0), 0.5, now);
                }
            }
            if pending.len() > before {
                pair.wrote(false, true, now);
            }
            prop_assert!(pair.ended().is_none() || !pair.wants_upstream());
        }
        if !pair.abandoned() {
            client.extend_from_slice(&pending);
        }
        let body = dechunk(&client);
        let text = body.escape_ascii().to_string();
        let without = text.replace(": HEARTBEAT\\n\\n", "");
        let sent = upstream.escape_ascii().to_string();
        let bom = "\\xef\\xbb\\xbf";
        let expected = if text.starts_with(": HEARTBEAT") { sent.strip_prefix(bom).unwrap_or(&sent).to_owned() } else { sent };
        if pair.ended().is_none() && !matches!(expected.as_str(), "\\xef" | "\\xef\\xbb") {
            prop_assert_eq!(&without, &expected);
        } else if !pair.abandoned() {
            prop_assert!(expected.starts_with(&without), "{} is no prefix of {}", without, expected);
        }
        if pair.ended_clean() {
            prop_assert!(client.ends_with(chunked::LAST_CHUNK));
        } else if pair.ended().is_some() && !pair.abandoned() {
            prop_assert_eq!(client.ends_with(chunked::BROKEN_CHUNK), !pair.breaks_later());
        }
    }
}
