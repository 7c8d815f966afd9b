//! What the hot path allocates: nothing for an event, and one list for the decision on a request.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use pingora::http::RequestHeader;
use sse_proxy::Route;
use sse_proxy::config::StreamMode;
use sse_proxy::headers::Client;
use sse_proxy::routing::{Matcher, RouteEntry, RouteTable, Router, StreamLimits};
use sse_proxy::sse::Heartbeat;
use sse_proxy::stream::{Framing, HeartbeatPolicy, Millis, Opening, Pair, Policy};
use sse_proxy::takeover::Decision;
use sse_proxy::upstream::Upstream;
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
        lifetime: None,
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

#[test]
fn the_decision_on_a_request_allocates_its_list_of_endpoints() {
    let servers = ["127.0.0.1:1", "127.0.0.1:2"].map(|server| server.parse().unwrap());
    let route = RouteEntry {
        matcher: Matcher::of_prefix("/"),
        stream: StreamMode::Always,
        upstream: Arc::new(Upstream::new("app", servers.to_vec())),
        streams: Route::new("/", Policy::default(), Arc::new(())),
        limits: StreamLimits::default(),
    };
    let router = Router::new(RouteTable::new(vec![route]));
    let request = RequestHeader::build("GET", b"/events", None).unwrap();
    // The first one sets up what the thread keeps for reading the table.
    let client = Client { address: None, via_trusted_proxy: false };
    drop(router.decide(&request, &client, Millis(0)));
    let mut first = Vec::with_capacity(100);
    let allocations = measure(|| {
        for _ in 0..100 {
            let Decision::Serve(plan) = router.decide(&request, &client, Millis(0)) else { panic!("not served") };
            first.push(plan.endpoints[0].address.port());
        }
    });
    assert_eq!(allocations.count_total, 100);
    assert_eq!(first[..3], [2, 1, 2]);
}
