//! The policy of a route's streams, validated.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::drain::RetryRange;
use crate::headers::HeadRules;
use crate::sse::Heartbeat;

/// The rules that the streams of one route share.
///
/// The default sends no heartbeat and limits nothing but the size of a response head.
///
/// ```
/// use std::time::Duration;
///
/// use sse_proxy::{Heartbeat, HeartbeatPolicy, Policy};
///
/// let mut policy = Policy::default();
/// policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_secs(15), Heartbeat::default()));
/// policy.timeouts.idle = Some(Duration::from_secs(300));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Heartbeats during silence; `None` sends none.
    pub heartbeat: Option<HeartbeatPolicy>,
    /// How long each kind of waiting may last.
    pub timeouts: Timeouts,
    /// Whether comments from the upstream do not restart `timeouts.idle`, so that only events do.
    pub idle_ignores_comments: bool,
    /// TCP keep-alive on connections to peers without `tcp_keepalive` of their own. It detects vanished servers; `None`, the
    /// default, sets none.
    pub keep_alive: Option<KeepAlive>,
    /// The largest head of a response, interim or final, in bytes; 64 KiB by default.
    pub response_head_bytes: usize,
    /// Whether the gaps between events are measured, for all streams of the route; each event then costs two more atomic
    /// additions.
    pub event_gaps: bool,
    /// The interval that the backend of one stream has set in place of the route's; zero: none.
    pub(crate) backend_heartbeat: Option<Duration>,
    /// What the proxy of this crate changes in heads; `None`, the default, changes nothing.
    pub(crate) heads: Option<Arc<HeadRules>>,
    /// After which time an `EventSource` comes back whose upstream failed before its response head; `None`, the default, answers it
    /// with an error, after which it does not.
    pub(crate) retry_unavailable: Option<RangeInclusive<Duration>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            heartbeat: None,
            timeouts: Timeouts::default(),
            idle_ignores_comments: false,
            keep_alive: None,
            response_head_bytes: 64 * 1024,
            event_gaps: false,
            backend_heartbeat: None,
            heads: None,
            retry_unavailable: None,
        }
    }
}

impl Policy {
    /// The same for one stream whose backend has set the interval of its heartbeats; zero: none.
    pub(crate) fn with_heartbeat_of_backend(&self, interval: Duration) -> Self {
        let mut policy = self.clone();
        policy.backend_heartbeat = Some(interval);
        let form = policy.heartbeat.take().map_or_else(Heartbeat::default, |heartbeat| heartbeat.heartbeat);
        policy.heartbeat = (!interval.is_zero()).then(|| HeartbeatPolicy::new(interval, form));
        policy
    }
}

/// TCP keep-alive. With values that the kernel refuses, no connection can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    /// Silence before the first probe, in whole seconds, from 1 to 32767.
    pub idle: Duration,
    /// Interval between probes, in whole seconds, from 1 to 32767.
    pub interval: Duration,
    /// Unanswered probes after which the connection has failed, from 1 to 127.
    pub count: u32,
}

impl KeepAlive {
    /// Probes after `idle` and then every `interval`, until `count` of them have not been answered.
    pub fn new(idle: Duration, interval: Duration, count: u32) -> Self {
        Self { idle, interval, count }
    }
}

/// When a heartbeat is due, and what is written then.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeartbeatPolicy {
    /// Silence on the client's connection before a heartbeat is sent, in whole milliseconds. Less than 1 ms counts as 1 ms.
    pub interval: Duration,
    /// What is sent.
    pub heartbeat: Heartbeat,
}

/// Time limits, in whole milliseconds. `None` sets no limit, as does one that lies beyond the clock, such as [`Duration::MAX`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timeouts {
    /// Establishing the upstream connection, TLS included. Replaces the peer's own connection timeouts.
    pub connect: Option<Duration>,
    /// From the request being written to the upstream's response head.
    pub first_byte: Option<Duration>,
    /// Silence of the upstream after the response head.
    pub idle: Option<Duration>,
    /// Silence of the upstream within a response that is not a stream.
    pub read: Option<Duration>,
    /// Time without progress while bytes wait to be written to the client.
    pub write: Option<Duration>,
    /// Age at which a stream is ended at its next event boundary.
    pub lifetime: Option<Duration>,
    /// The largest part of `lifetime`, between 0 and 1, by which it is shortened at random, so that streams that start
    /// together do not end together. Values outside are clamped; NaN counts as 0.
    pub lifetime_jitter: f64,
    /// The `retry:` field that a stream ends with at its lifetime, if it ends at an event boundary. `None` adds none.
    pub lifetime_retry: Option<RetryRange>,
}

impl HeartbeatPolicy {
    /// Sends `heartbeat` once nothing has been written to the client for `interval`.
    pub fn new(interval: Duration, heartbeat: Heartbeat) -> Self {
        Self { interval, heartbeat }
    }
}

impl Timeouts {
    /// The lifetime of one stream: `lifetime` less a random part of at most `lifetime_jitter` of it.
    ///
    /// `random` is uniform in 0..1.
    pub fn jittered_lifetime(&self, random: f64) -> Option<Duration> {
        let jitter = if self.lifetime_jitter.is_nan() { 0.0 } else { self.lifetime_jitter.clamp(0.0, 1.0) };
        self.lifetime.map(|lifetime| {
            let part = Duration::try_from_secs_f64(lifetime.as_secs_f64() * jitter * random);
            lifetime.saturating_sub(part.unwrap_or(lifetime))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_a_lifetime() {
        let timeouts =
            Timeouts { lifetime: Some(Duration::from_secs(100)), lifetime_jitter: 0.2, ..Timeouts::default() };
        assert_eq!(timeouts.jittered_lifetime(0.0), Some(Duration::from_secs(100)));
        assert_eq!(timeouts.jittered_lifetime(0.5), Some(Duration::from_secs(90)));
        assert_eq!(Timeouts::default().jittered_lifetime(0.5), None);
    }

    #[test]
    fn every_lifetime_and_jitter_gives_a_lifetime_within_the_limit() {
        let (second, longest) = (Duration::from_secs(1), Duration::MAX);
        for (lifetime_jitter, of_second) in [
            (0.0, second),
            (f64::NAN, second),
            (f64::NEG_INFINITY, second),
            (-1.0, second),
            (1.0, second / 2),
            (f64::INFINITY, second / 2),
            (7.0, second / 2),
        ] {
            let of = |lifetime| Timeouts { lifetime: Some(lifetime), lifetime_jitter, ..Timeouts::default() };
            assert_eq!(of(second).jittered_lifetime(0.5), Some(of_second), "{lifetime_jitter}");
            for random in [0.0, 0.5, 1.0 - f64::EPSILON] {
                assert!(of(longest).jittered_lifetime(random) <= Some(longest), "{lifetime_jitter}");
            }
        }
    }
}
