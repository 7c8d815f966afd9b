//! The limits on connections, which a reload replaces. An HTTP/2 connection keeps those it began with.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::protocols::http::v2::server::H2Options;

use super::limits::Limits;
use crate::metrics::Metrics;
use crate::takeover::{ClientPolicy, ClientRules, TrustedProxies};

/// The rules in force, shared with who replaces them.
pub type SharedRules = Arc<ArcSwap<ConnectionRules>>;

/// Limits on client connections.
pub struct ConnectionRules {
    pub(super) policy: ClientPolicy,
    pub(super) options: H2Options,
    pub(super) unacknowledged: Option<Duration>,
    pub(super) http2: Arc<Limits>,
    /// The peers that may send a header of the PROXY protocol.
    pub(super) trusted_proxies: TrustedProxies,
}

impl ConnectionRules {
    /// Data that a client does not acknowledge for `unacknowledged`, a closed receive window included, ends an HTTP/2
    /// connection with all its streams. `open_http2` counts the HTTP/2 connections.
    pub fn new(
        rules: &ClientRules,
        options: H2Options,
        unacknowledged: Option<Duration>,
        metrics: Arc<Metrics>,
        open_http2: Arc<AtomicUsize>,
    ) -> Self {
        let (policy, trusted_proxies) = (rules.policy, rules.trusted_proxies.clone());
        let http2 = Arc::new(Limits::new(&policy, unacknowledged, metrics, open_http2));
        Self { policy, options, unacknowledged, http2, trusted_proxies }
    }
}
