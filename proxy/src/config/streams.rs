//! `routes[].heartbeat` and `routes[].timeouts`: the policy of streams and pages.

use serde::Deserialize;

use super::retry::RetryConfig;
use super::values::{Limit, Percent};
use crate::sse::{Heartbeat, HeartbeatStyle};

/// Heartbeats.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `heartbeat: {interval: 15s}`")]
pub struct HeartbeatConfig {
    /// Silence before a heartbeat; 0 sends none.
    pub interval: Limit,
    /// Its form.
    pub style: HeartbeatStyle,
    /// Its text.
    pub payload: String,
}

/// Time limits; 0 disables one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `timeouts: {idle: 5m}`")]
pub struct TimeoutConfig {
    /// Connecting to a server (`proxy_connect_timeout`, `connect_timeout`).
    pub connect: Limit,
    /// From the request to the response head (the first `proxy_read_timeout`).
    pub first_byte: Limit,
    /// Silence of the upstream within a stream (`proxy_read_timeout`, `stream_idle_timeout`).
    pub idle: Limit,
    /// Whether comments from the upstream do not restart `idle`.
    pub idle_ignores_comments: bool,
    /// Silence of the upstream within a response that is not a stream (`proxy_read_timeout`).
    pub read: Limit,
    /// Time without progress while bytes wait to be written to the client (`send_timeout`, `write_timeout`).
    pub write: Limit,
    /// Age of a stream (`max_stream_duration`).
    pub lifetime: Limit,
    /// The largest part of `lifetime` by which it is shortened at random.
    pub lifetime_jitter: Percent,
    /// The `retry:` field that a stream ends with at its lifetime.
    pub lifetime_retry: RetryConfig,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { interval: Limit::seconds(15), style: HeartbeatStyle::Comment, payload: String::new() }
    }
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            connect: Limit::seconds(3),
            first_byte: Limit::seconds(60),
            idle: Limit::seconds(300),
            idle_ignores_comments: false,
            read: Limit::seconds(60),
            write: Limit::seconds(30),
            lifetime: Limit::none(),
            lifetime_jitter: Percent(20.0),
            lifetime_retry: RetryConfig::default(),
        }
    }
}

impl HeartbeatConfig {
    pub(super) fn render(&self) -> Result<Heartbeat, crate::sse::HeartbeatError> {
        Heartbeat::new(self.style, &self.payload)
    }
}
