//! The application, the protocols of its connections, and their limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::http::v2::server::H2Options;
use tokio::time::timeout;

use super::limits::Limits;
use super::tls::TlsListeners;
use crate::headers::TrustedProxies;
use crate::metrics::Metrics;
use crate::takeover::ClientPolicy;
use crate::wire::refusal::Refusal;

/// Stands for no limit: beyond the life of any process.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 32);

/// An application whose connections are driven here.
pub struct Connections<A> {
    pub(super) app: Arc<A>,
    pub(super) options: H2Options,
    pub(super) h2c: bool,
    pub(super) unacknowledged: Option<Duration>,
    pub(super) policy: ClientPolicy,
    pub(super) http2: Arc<Limits>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tls: TlsListeners,
    pub(super) trusted_proxies: TrustedProxies,
}

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Passes requests to `app`, whose own HTTP/2 options do not apply. `h2c` enables HTTP/2 on connections without
    /// TLS. Data that a client does not acknowledge for `unacknowledged`, a closed receive window included, ends an
    /// HTTP/2 connection with all its streams.
    pub fn new(
        app: A,
        options: H2Options,
        h2c: bool,
        unacknowledged: Option<Duration>,
        policy: ClientPolicy,
        metrics: Arc<Metrics>,
        open_http2: Arc<AtomicUsize>,
    ) -> Self {
        let http2 = Arc::new(Limits::new(&policy, unacknowledged, metrics.clone(), open_http2));
        Self {
            app: Arc::new(app),
            options,
            h2c,
            unacknowledged,
            policy,
            http2,
            metrics,
            tls: TlsListeners::default(),
            trusted_proxies: TrustedProxies::default(),
        }
    }

    /// With these listeners, and the peers that may send a header of the PROXY protocol.
    #[must_use]
    pub fn with_listeners(self, tls: TlsListeners, trusted_proxies: TrustedProxies) -> Self {
        Self { tls, trusted_proxies, ..self }
    }

    /// Runs the work before the first request within the limit on a request head.
    pub(super) async fn limited<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(self.policy.header.unwrap_or(FOREVER), work).await.unwrap_or_else(late)
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        self.metrics.refused(refusal.as_str());
        self.metrics.request(refusal.status());
    }
}
