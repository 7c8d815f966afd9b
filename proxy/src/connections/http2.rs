//! HTTP/2 connections, so that a silent one keeps what HTTP/2 needs and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::Connection;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession};
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;

use super::Connections;
use super::http2_transport::Http2Transport;
use crate::driver::ClientConnection;
use crate::sys;

/// Malformed requests that one connection may send before it is closed: as many as Pingora allows.
const MALFORMED_REQUESTS: usize = 32;

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    pub(super) async fn serve_http2(&self, client: ClientConnection, shutdown: &ShutdownWatch) {
        let Some((held, transport)) = client.into_parts() else { return };
        let stream: Stream = Box::new(Http2Transport::new(held, transport));
        let digest = Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        };
        // Best effort, as for the sockets of streams over HTTP/1.
        sys::with_socket(stream.id(), |socket| drop(socket.set_tcp_user_timeout(self.unacknowledged)));
        // The buffers of a connection are made here.
        let handshake = sys::on_unused_pages(|| self.options.handshake(stream));
        match self.limited(async { handshake.await.map_err(std::io::Error::other) }).await {
            Ok(connection) => {
                let (app, digest, shutdown) = (self.app.clone(), Arc::new(digest), shutdown.clone());
                tokio::spawn(Http2 { app, connection, digest, shutdown }.run());
            }
            Err(error) => log::debug!("side=downstream: an HTTP/2 connection that did not begin: {error}"),
        }
    }
}

/// A connection that speaks HTTP/2.
struct Http2<A> {
    app: Arc<A>,
    connection: Connection<Stream, Bytes>,
    digest: Arc<Digest>,
    shutdown: ShutdownWatch,
}

impl<A: HttpServerApp + Send + Sync + 'static> Http2<A> {
    /// Serves until the client has left or, once the process shuts down, the last stream has ended. What this future holds is
    /// held for every connection.
    #[allow(clippy::manual_async_fn, reason = "an async fn that takes self holds it twice")]
    fn run(mut self) -> impl Future<Output = ()> + Send {
        async move { self.serve().await }
    }

    async fn serve(&mut self) {
        let mut malformed = 0;
        let mut stopping = false;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = self.shutdown.changed(), if !stopping => {
                    self.connection.graceful_shutdown();
                    stopping = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut self.connection, self.digest.clone()) => accepted,
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    let (app, shutdown) = (self.app.clone(), self.shutdown.clone());
                    tokio::spawn(async move {
                        app.process_new_http(ServerSession::new_http2(session), &shutdown).await;
                    });
                }
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    if malformed == MALFORMED_REQUESTS {
                        log::warn!("side=downstream: a connection is closed after {malformed} malformed requests");
                        return;
                    }
                }
                // Most clients leave without saying so.
                Ok(None) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora::proxy::HttpProxy;

    use super::*;
    use crate::gateway::Gateway;

    fn future_size<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_held_once_and_without_its_requests() {
        let size = future_size(Http2::<HttpProxy<Gateway>>::run);
        assert!(size < size_of::<Http2<HttpProxy<Gateway>>>() + 512, "{size}");
    }
}
