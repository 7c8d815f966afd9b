//! Limits on a client's connection before and between its requests.

use std::time::Duration;

use crate::headers::TrustedProxies;
use crate::wire::request::HeadLimits;

/// Limits on client connections. `None` sets no limit.
#[derive(Clone, Copy, Debug)]
pub struct ClientPolicy {
    /// Size of a request head.
    pub head: HeadLimits,
    /// Total time for a request head, from its first byte. A new connection may send nothing for as long.
    pub header: Option<Duration>,
    /// Time between two reads of a request's body.
    pub body: Option<Duration>,
    /// Time without a request on a connection that has had one.
    pub keepalive: Option<Duration>,
    /// Silence of an HTTP/2 connection before a PING is sent.
    pub ping: Option<Duration>,
}

/// What holds for a client's requests, whatever their routes are. A request keeps the rules that it began with.
#[derive(Clone, Debug, Default)]
pub struct ClientRules {
    /// Limits.
    pub policy: ClientPolicy,
    /// The peers whose forwarding fields are trusted.
    pub trusted_proxies: TrustedProxies,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        let minute = Some(Duration::from_secs(60));
        let keepalive = Some(Duration::from_secs(75));
        Self { head: HeadLimits::default(), header: minute, body: minute, keepalive, ping: minute }
    }
}
