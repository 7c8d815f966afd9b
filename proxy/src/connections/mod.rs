//! Client connections, from the transport to the application's sessions: which protocol they speak, how long they may take to
//! say what they want, and what they may cost between requests.
//!
//! Pingora's service spawns one future that has room for whatever a connection may turn out to be, TLS handshakes and
//! HTTP/1 sessions included, and an HTTP/2 connection would live in it to its end: 12 KiB that serve nothing any more. Here
//! it moves to a task of its own as soon as it speaks. Its requests, and those of connections that speak HTTP/1, are the
//! application's as ever.

mod http1;
mod http2;
mod http2_limits;
mod http2_transport;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;
use tokio::time::timeout;

use crate::driver::ClientConnection;
use crate::metrics::Metrics;
use crate::takeover::ClientPolicy;
use crate::wire::frames::PREFACE;
use crate::wire::request::Refusal;

/// Stands for no limit: longer than any process lives.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// An application whose connections are driven here.
pub struct Connections<A> {
    app: Arc<A>,
    options: H2Options,
    h2c: bool,
    unacknowledged: Option<Duration>,
    policy: ClientPolicy,
    http2: Arc<http2_limits::Limits>,
    metrics: Arc<Metrics>,
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
        let http2 = Arc::new(http2_limits::Limits::new(&policy, unacknowledged, metrics.clone()));
        Self { app: Arc::new(app), options, h2c, unacknowledged, policy, http2, metrics }
    }

    /// Serves a connection to its end, or until it has moved to a task of its own.
    pub(crate) async fn serve(&self, mut client: ClientConnection, shutdown: &ShutdownWatch) {
        match self.limited(self.speaks_http2(&mut client)).await {
            // On the heap: an HTTP/1 request should not have to carry the room for it.
            Ok(true) => Box::pin(self.serve_http2(client, shutdown)).await,
            Ok(false) => self.serve_http1(client, shutdown).await,
            Err(error) => log::debug!("side=downstream: a connection is closed before its first request: {error}"),
        }
    }

    async fn speaks_http2(&self, client: &mut ClientConnection) -> io::Result<bool> {
        if let Some(transport) = client.transport().filter(|transport| transport.get_ssl_digest().is_some()) {
            return Ok(transport.selected_alpn_proto() == Some(ALPN::H2));
        }
        // The first bytes tell it from all of HTTP/1; a request may be shorter than the preface.
        while self.h2c && PREFACE.starts_with(client.held()) {
            if client.receive().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.h2c && client.held().starts_with(PREFACE))
    }

    /// Bounds what has to be there before a request can be read.
    async fn limited<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(self.policy.header.unwrap_or(FOREVER), work).await.unwrap_or_else(late)
    }

    fn count_refusal(&self, refusal: Refusal) {
        self.metrics.refused(refusal.as_str());
        self.metrics.request(refusal.status());
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for Connections<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.serve(ClientConnection::over(stream), shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.app.http_cleanup().await;
    }
}
