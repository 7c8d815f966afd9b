//! The application, what is spoken on its connections, and their limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::http::v2::server::H2Options;
use tokio::time::timeout;

use super::limits::Limits;
use crate::metrics::Metrics;
use crate::takeover::ClientPolicy;
use crate::wire::request::Refusal;

/// Stands for no limit: longer than any process lives.
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
}

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Gives requests to `app`, which has nothing to do with HTTP/2 options of its own any more. `h2c` says whether
    /// HTTP/2 is looked for on connections without TLS; what a client leaves `unacknowledged` for so long, a closed receive
    /// window included, ends its connection with all its streams.
    pub fn new(
        app: A,
        options: H2Options,
        h2c: bool,
        unacknowledged: Option<Duration>,
        policy: ClientPolicy,
        metrics: Arc<Metrics>,
    ) -> Self {
        let http2 = Arc::new(Limits::new(&policy, unacknowledged, metrics.clone()));
        Self { app: Arc::new(app), options, h2c, unacknowledged, policy, http2, metrics }
    }

    /// Bounds what has to be there before a request can be read.
    pub(super) async fn limited<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(self.policy.header.unwrap_or(FOREVER), work).await.unwrap_or_else(late)
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        self.metrics.refused(refusal.as_str());
        self.metrics.request(refusal.status());
    }
}
