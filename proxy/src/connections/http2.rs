//! HTTP/2 connections, each in a task that keeps only what HTTP/2 needs.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use h2::{Ping, PingPong, Reason};
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession};
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;
use tokio::time::{Instant, sleep, timeout};

use super::application::Connections;
use super::http2_transport::{Activity, Http2Transport};
use super::limits::Limits;
use crate::metrics::CLOSE_REASONS;
use crate::sys;
use crate::takeover::{ClientConnection, InFlight};
use crate::wire::frames::Unfinished;

/// How long a client may take to close a connection after GOAWAY, in milliseconds.
const CLOSING_LIMIT_MS: u64 = 5_000;

/// How long sending the last GOAWAY may take.
const GOAWAY_LIMIT: Duration = Duration::from_secs(1);

/// The reason of a request that the library rejects, in `sse_proxy_refused_total`.
const MALFORMED: &str = "http2_malformed";

/// Malformed requests after which a connection is closed, as in Pingora.
const MALFORMED_REQUESTS: usize = 32;

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    pub(super) async fn serve_http2(&self, client: ClientConnection, shutdown: &ShutdownWatch) {
        let Some((received, transport)) = client.into_parts() else { return };
        let rules = self.rules();
        let activity = Activity::new();
        let stream: Stream = Box::new(Http2Transport::new(received, transport, activity.clone()));
        let digest = Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        };
        // Best effort, as for the sockets of streams over HTTP/1.
        sys::with_socket(stream.id(), |socket| drop(socket.set_tcp_user_timeout(rules.unacknowledged)));
        // The handshake allocates the buffers of the connection.
        let handshake = sys::on_unused_pages(|| rules.options.handshake(stream));
        match self.limited(async { handshake.await.map_err(std::io::Error::other) }).await {
            Ok(mut connection) => {
                let (app, digest, shutdown) = (self.app.clone(), Arc::new(digest), shutdown.clone());
                let limits = rules.http2.clone();
                let watch =
                    Watch { activity, pings: connection.ping_pong(), pinged: None, idle_since: None, closing: None };
                let open = InFlight::enter(&limits.open);
                tokio::spawn(Http2 { app, connection, digest, shutdown, limits, watch, _open: open }.run());
            }
            Err(error) => log::debug!("HTTP/2 handshake failed: side=downstream: {error}"),
        }
    }
}

/// Why the proxy closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// No stream for `client.timeouts.keepalive`.
    Idle,
    /// No answer to a PING.
    Vanished,
    /// A head or a piece of a body that was not completed in time.
    Slow,
    /// More frames without a request or data than the budget allows.
    Flood,
    /// Too many malformed requests.
    Malformed,
}

impl Close {
    /// The name in metrics and logs.
    fn as_str(self) -> &'static str {
        CLOSE_REASONS[self as usize]
    }
}

/// The timers of a connection, in milliseconds since it began.
struct Watch {
    activity: Arc<Activity>,
    pings: Option<PingPong>,
    /// When the unanswered PING was sent.
    pinged: Option<u64>,
    /// Since when there has been no stream.
    idle_since: Option<u64>,
    /// When the first GOAWAY was sent.
    closing: Option<u64>,
}

impl Watch {
    /// Returns why the connection has to be closed now, if it has. Sends a PING when one is due.
    fn check(&mut self, has_streams: bool, limits: &Limits) -> Option<Close> {
        let now = self.activity.now();
        let limit = |what| if what == Unfinished::Data { limits.body } else { limits.header };
        if self.activity.unfinished().is_some_and(|(what, since)| now >= since.saturating_add(limit(what))) {
            return Some(Close::Slow);
        }
        if self.closing.is_some_and(|since| !has_streams && now >= since + CLOSING_LIMIT_MS) {
            return Some(Close::Idle);
        }
        self.idle_since = if has_streams { None } else { self.idle_since.or(Some(now)) };
        if self.closing.is_none() && self.idle_since.is_some_and(|since| now >= since.saturating_add(limits.keepalive))
        {
            return Some(Close::Idle);
        }
        match self.pinged {
            // Whatever the client sends shows that it is alive.
            Some(at) if self.activity.received() >= at => self.pinged = None,
            Some(at) if now >= at.saturating_add(limits.pong) => return Some(Close::Vanished),
            Some(_) => {}
            None if now >= self.activity.received().saturating_add(limits.ping) => self.ping(now),
            None => {}
        }
        None
    }

    fn ping(&mut self, now: u64) {
        let Some(pings) = &mut self.pings else { return };
        // The pong of the previous PING has to be read before the next PING can be sent.
        let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
        if pings.send_ping(Ping::opaque()).is_ok() {
            self.pinged = Some(now);
        }
    }
}

/// An HTTP/2 connection.
struct Http2<A> {
    app: Arc<A>,
    connection: Connection<Stream, Bytes>,
    digest: Arc<Digest>,
    shutdown: ShutdownWatch,
    limits: Arc<Limits>,
    watch: Watch,
    /// Counts this connection as open.
    _open: InFlight,
}

impl<A: HttpServerApp + Send + Sync + 'static> Http2<A> {
    /// Serves until the client has closed the connection or, once the process shuts down, the last stream has ended.
    /// The size of this future counts for every connection.
    #[allow(clippy::manual_async_fn, reason = "an async fn that takes self holds it twice")]
    fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            if let Some(close) = self.serve().await {
                if close != Close::Idle {
                    self.limits.metrics.closed_connection(close.as_str());
                }
                // What a client does wrong is worth a line; the others are everyday.
                let level = if close == Close::Malformed { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "connection closed: side=downstream reason={}", close.as_str());
                self.send_goaway(close).await;
            }
        }
    }

    /// Returns why the connection has to be closed; `None` if it has ended.
    async fn serve(&mut self) -> Option<Close> {
        let mut malformed = 0;
        let mut stopping = false;
        let interval = self.limits.interval();
        let mut timer = pin!(sleep(interval));
        loop {
            let activity = &self.watch.activity;
            let over_budget = poll_fn(|_| if activity.is_over_budget() { Poll::Ready(()) } else { Poll::Pending });
            let accepted = tokio::select! {
                biased;
                _ = self.shutdown.changed(), if !stopping => {
                    self.connection.graceful_shutdown();
                    stopping = true;
                    continue;
                }
                () = over_budget => return Some(Close::Flood),
                accepted = HttpSession::from_h2_conn(&mut self.connection, self.digest.clone()) => accepted,
                () = &mut timer => {
                    match self.watch.check(self.connection.has_streams(), &self.limits) {
                        // A request that is in transit is still served.
                        Some(Close::Idle) if self.watch.closing.is_none() => {
                            self.connection.graceful_shutdown();
                            self.watch.closing = Some(self.watch.activity.now());
                            self.limits.metrics.closed_connection(Close::Idle.as_str());
                        }
                        Some(close) => return Some(close),
                        None => {}
                    }
                    timer.as_mut().reset(Instant::now() + interval);
                    continue;
                }
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
                    self.limits.metrics.refused(MALFORMED);
                    if malformed == MALFORMED_REQUESTS {
                        return Some(Close::Malformed);
                    }
                }
                // Most clients close without GOAWAY.
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Sends the reason to the client.
    async fn send_goaway(&mut self, close: Close) {
        self.connection.abrupt_shutdown(match close {
            Close::Flood => Reason::ENHANCE_YOUR_CALM,
            Close::Malformed => Reason::PROTOCOL_ERROR,
            Close::Idle | Close::Vanished | Close::Slow => Reason::NO_ERROR,
        });
        let closed = poll_fn(|cx| self.connection.poll_closed(cx));
        let _ = timeout(GOAWAY_LIMIT, closed).await;
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
    fn the_future_of_a_connection_has_no_copy_of_it_or_of_its_requests() {
        let size = future_size(Http2::<HttpProxy<Gateway>>::run);
        assert!(size < size_of::<Http2<HttpProxy<Gateway>>>() + 512, "{size}");
    }
}
