//! The application, and the limits of its connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use tokio::time::timeout;

use super::rules::{ConnectionRules, SharedRules};
use crate::metrics::Metrics;
use crate::wire::refusal::Refusal;

/// Stands for no limit: beyond the life of any process.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 32);

/// An application whose connections are driven here.
pub struct Connections<A> {
    pub(super) app: Arc<A>,
    pub(super) metrics: Arc<Metrics>,
    rules: SharedRules,
}

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Passes requests to `app`, whose own HTTP/2 options do not apply.
    pub fn new(app: A, rules: SharedRules, metrics: Arc<Metrics>) -> Self {
        Self { app: Arc::new(app), metrics, rules }
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> Arc<ConnectionRules> {
        self.rules.load_full()
    }

    /// Closes idle connections.
    pub(crate) async fn cleanup(&self) {
        self.app.http_cleanup().await;
    }

    /// Runs the work before the first request within the limit on a request head.
    pub(super) async fn limited<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(self.rules().policy.header.unwrap_or(FOREVER), work).await.unwrap_or_else(late)
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        self.metrics.refused(refusal.as_str());
        self.metrics.request(refusal.status());
    }
}
