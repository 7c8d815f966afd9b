//! What a route asks of its streams, validated and ready for use.

use std::time::Duration;

use crate::sse::Heartbeat;

/// The rules that the streams of one route share.
///
/// The default sends no heartbeat and sets no limit.
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
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Policy {
    /// Heartbeats during silence; `None` sends none.
    pub heartbeat: Option<HeartbeatPolicy>,
    /// How long each kind of waiting may last.
    pub timeouts: Timeouts,
    /// Whether a comment from the upstream leaves `timeouts.idle` running: only events then show that it is alive.
    pub idle_ignores_comments: bool,
    /// How a server that has vanished without a word is found; `None` leaves it to the limits.
    pub keep_alive: Option<KeepAlive>,
}

/// Probes of a silent TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, in whole seconds.
    pub idle: Duration,
    /// From one probe to the next, in whole seconds.
    pub interval: Duration,
    /// Probes without an answer until the connection has failed.
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

/// Limits on waiting. `None` waits for ever.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timeouts {
    /// Establishing the upstream connection, TLS included.
    pub connect: Option<Duration>,
    /// From the request being written to the upstream's response head.
    pub first_byte: Option<Duration>,
    /// Silence of the upstream once the head has come.
    pub idle: Option<Duration>,
    /// Silence of the upstream within an answer that is no stream.
    pub read: Option<Duration>,
    /// The client taking no byte while some are waiting for it.
    pub write: Option<Duration>,
    /// Age at which a stream is ended at its next event boundary.
    pub lifetime: Option<Duration>,
    /// Part of `lifetime`, between 0 and 1, by which it is shortened at random, so that streams opened together do not
    /// end together.
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
