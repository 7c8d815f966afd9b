//! The policy of a route's streams, validated.

use std::time::Duration;

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
    /// TCP keep-alive on upstream connections, which detects vanished servers; `None` disables it.
    pub keep_alive: Option<KeepAlive>,
    /// The largest head of a response, interim or final, in bytes; 64 KiB by default.
    pub response_head_bytes: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            heartbeat: None,
            timeouts: Timeouts::default(),
            idle_ignores_comments: false,
            keep_alive: None,
            response_head_bytes: 64 * 1024,
        }
    }
}

/// TCP keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, in whole seconds.
    pub idle: Duration,
    /// Interval between probes, in whole seconds.
    pub interval: Duration,
    /// Unanswered probes after which the connection has failed.
    pub count: u32,
}

/// When a heartbeat is due, and what is written then.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeartbeatPolicy {
    /// Silence on the client's connection before a heartbeat is sent.
    pub interval: Duration,
    /// What is sent.
    pub heartbeat: Heartbeat,
}

/// Time limits. `None` sets no limit.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timeouts {
    /// Establishing the upstream connection, TLS included.
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
    /// together do not end together.
    pub lifetime_jitter: f64,
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
        self.lifetime.map(|lifetime| lifetime.mul_f64(1.0 - self.lifetime_jitter.clamp(0.0, 1.0) * random))
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
}
