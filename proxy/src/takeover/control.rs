//! Applies what a backend says about a stream to its beginning.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pingora::http::ResponseHeader;

use crate::driver::{Route, StreamInfo};
use crate::exchange;
use crate::headers;
use crate::stream::{Framing, Opening};
use crate::wire::body::Body;

/// The parameters of a stream, by its route and by the fields of its head that are for this proxy. `head` is the upstream's.
pub(super) fn opening(
    route: &Route,
    framing: Framing,
    body: Body,
    head: &ResponseHeader,
    info: StreamInfo,
) -> (Opening, StreamInfo) {
    let mut opening = exchange::opening(&route.policy, framing, body, head, fastrand::f64());
    let Some(control) = headers::stream_control(head) else { return (opening, info) };
    if let Some(ignored) = control.ignored
        && !route.totals.control_ignored.swap(true, Ordering::Relaxed)
    {
        log::warn!(
            "response field ignored: side=upstream route={}: {ignored}; further ones are not logged",
            route.name
        );
    }
    opening.lifetime = control.lifetime;
    if let Some(interval) = control.heartbeat {
        opening.policy = Arc::new(opening.policy.with_heartbeat_of_backend(interval));
    }
    (opening, info.labelled(&control.labels))
}
