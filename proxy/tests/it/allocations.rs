//! An event that passes through a pair allocates nothing.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use sse_proxy::sse::Heartbeat;
use sse_proxy::stream::{Framing, HeartbeatPolicy, Millis, Opening, Pair, Policy};
use sse_proxy::wire::body::Body;
use sse_proxy::wire::chunked::{self, Decoder};

const INTERVAL: Duration = Duration::from_secs(15);

#[test]
fn events_and_heartbeats_allocate_nothing() {
    let mut policy = Policy::default();
    policy.heartbeat = Some(HeartbeatPolicy::new(INTERVAL, Heartbeat::default()));
    let opening = Opening {
        policy: Arc::new(policy),
        body: Body::Chunked(Decoder::default()),
        framing: Framing::Chunked,
        identity: true,
        random: 0.5,
    };
    let mut pair = Pair::new(opening, Millis(0));
    let mut wire = Vec::new();
    chunked::encode(b"id: 1\nevent: tick\ndata: some text\n\n", &mut wire);
    let mut out = Vec::with_capacity(4 * wire.len());
    let mut now = Millis(0);
    let mut written = 0;
    let allocations = measure(|| {
        for _ in 0..1000 {
            out.clear();
            pair.upstream_data(&wire, now, &mut out);
            pair.wrote(true, false, now);
            now = now.after(INTERVAL);
            pair.tick(now, &mut out);
            pair.wrote(true, false, now);
            written += out.len();
        }
    });
    assert_eq!((pair.counts().events, pair.counts().heartbeats), (1000, 1000));
    assert_eq!(written, 1000 * (wire.len() + "3\r\n:\n\n\r\n".len()));
    assert_eq!(allocations.count_total, 0);
    assert_eq!(measure(|| drop(Box::new(now))).count_total, 1, "the counter counts allocations");
}
