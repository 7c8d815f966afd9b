//! Drives HTTP/2 connections, so that a silent one keeps what HTTP/2 needs and nothing else.
//!
//! Pingora's service spawns one future that has room for whatever a connection may turn out to be, TLS handshakes and
//! HTTP/1 sessions included, and an HTTP/2 connection would live in it to its end: 12 KiB that serve nothing any more. Here
//! it moves to a task of its own as soon as it speaks. Its requests, and connections that speak HTTP/1, are the
//! application's as ever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::server::Connection;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession};
use pingora::protocols::{ALPN, Digest, SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use tokio::time::timeout;

use crate::driver::canonical;
use crate::sys;

/// What a client without TLS that speaks HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Malformed requests that one connection may send before it is closed: as many as Pingora allows.
const MALFORMED_REQUESTS: usize = 32;

/// How long a connection may take until it is clear what it speaks, and until HTTP/2 has begun on it; as long as the first
/// byte of a request may take.
const BEGINNING_LIMIT: Duration = Duration::from_secs(60);

/// An application whose HTTP/2 connections are driven here.
pub struct Connections<A> {
    app: Arc<A>,
    options: H2Options,
    h2c: bool,
    unacknowledged: Option<Duration>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Gives requests to `app`, which has nothing to do with HTTP/2 options of its own any more. `h2c` tells whether
    /// HTTP/2 is looked for on connections without TLS; what a client leaves `unacknowledged` for so long, a closed receive
    /// window included, ends its connection with all its streams.
    pub fn new(app: A, options: H2Options, h2c: bool, unacknowledged: Option<Duration>) -> Self {
        Self { app: Arc::new(app), options, h2c, unacknowledged }
    }

    async fn speaks_http2(&self, stream: &mut Stream) -> Option<bool> {
        if stream.get_ssl_digest().is_some() {
            return Some(stream.selected_alpn_proto() == Some(ALPN::H2));
        }
        if !self.h2c {
            return Some(false);
        }
        let mut start = [0; PREFACE.len()];
        // The first three bytes tell it from all of HTTP/1; a request may be shorter than the preface.
        for length in [3, PREFACE.len()] {
            let peeked = stream.try_peek(&mut start[..length]).await.ok()?;
            if !peeked || start[..length] != PREFACE[..length] {
                return Some(false);
            }
        }
        Some(true)
    }

    async fn serve_http2(&self, stream: Stream, shutdown: &ShutdownWatch) {
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
        let Ok(begun) = timeout(BEGINNING_LIMIT, handshake).await else { return };
        match begun {
            Ok(connection) => {
                let (app, digest, shutdown) = (self.app.clone(), Arc::new(digest), shutdown.clone());
                tokio::spawn(Http2 { app, connection, digest, shutdown }.run());
            }
            Err(error) => log::debug!("HTTP/2 handshake failed: side=downstream: {error}"),
        }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for Connections<A> {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        canonical_client(&mut stream);
        if timeout(BEGINNING_LIMIT, self.speaks_http2(&mut stream)).await.ok()?? {
            // On the heap: an HTTP/1 request should not have to carry the room for it.
            Box::pin(self.serve_http2(stream, shutdown)).await;
            return None;
        }
        self.app.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.app.http_cleanup().await;
    }
}

/// Has the client's address written as what it is, also where the listener is on `[::]` and the client comes over IPv4.
fn canonical_client(stream: &mut Stream) {
    let digest = stream.get_socket_digest();
    let Some(address) = digest.and_then(|digest| digest.peer_addr()?.as_inet().copied()) else { return };
    if canonical(address) != address {
        let digest = SocketDigest::from_raw_fd(stream.id());
        let _ = digest.peer_addr.set(Some(canonical(address).into()));
        stream.set_socket_digest(digest);
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
                        log::warn!("connection closed: side=downstream reason=malformed_requests count={malformed}");
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
