//! The time limits of HTTP/2 connections, and their number.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::takeover::ClientPolicy;

/// Stands for no limit.
pub(super) const NEVER: u64 = u64::MAX;

/// How long a client may take to answer a PING, if a route sets no write timeout.
const PONG_LIMIT: Duration = Duration::from_secs(30);

/// Time limits, in milliseconds.
pub(super) struct Limits {
    pub(super) header: u64,
    pub(super) body: u64,
    pub(super) keepalive: u64,
    pub(super) ping: u64,
    pub(super) pong: u64,
    pub(super) metrics: Arc<Metrics>,
    /// The connections that are open.
    pub(super) open: Arc<AtomicUsize>,
}

impl Limits {
    pub(super) fn new(
        policy: &ClientPolicy,
        unacknowledged: Option<Duration>,
        metrics: Arc<Metrics>,
        open: Arc<AtomicUsize>,
    ) -> Self {
        let millis =
            |limit: Option<Duration>| limit.map_or(NEVER, |limit| u64::try_from(limit.as_millis()).unwrap_or(NEVER));
        Self {
            header: millis(policy.header),
            body: millis(policy.body),
            keepalive: millis(policy.keepalive),
            ping: millis(policy.ping),
            pong: millis(unacknowledged.or(Some(PONG_LIMIT))),
            metrics,
            open,
        }
    }

    /// How often to check: a quarter of the shortest limit.
    pub(super) fn interval(&self) -> Duration {
        let shortest =
            [self.header, self.body, self.keepalive, self.ping, self.pong].into_iter().min().unwrap_or(NEVER);
        Duration::from_millis((shortest / 4).clamp(10, 20_000))
    }
}
