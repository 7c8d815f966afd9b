//! A Pingora proxy with event streams carried by sse-proxy: hooks that change both heads, an observer that knows the user of each
//! stream, and a drain on SIGTERM.
//!
//! `cargo run -- 127.0.0.1:8080 127.0.0.1:3000`

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::proxy::Session;
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use sse_proxy::{Ended, Heartbeat, HeartbeatPolicy, Hooks, Observer, Policy, Route, Takeover, accepts_event_stream};
use tokio::signal::unix::{SignalKind, signal};

struct MyProxy {
    backend: String,
    takeover: Arc<Takeover>,
    events: Arc<Route>,
}

#[async_trait]
impl ProxyHttp for MyProxy {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.backend, false, String::new())))
    }

    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> Result<bool> {
        if !self.takeover.is_draining() {
            return Ok(false);
        }
        // Pingora still accepts connections while `Drain` waits; a client that gets 503 connects again, to another instance.
        session.respond_error(503).await?;
        Ok(true)
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
        if !accepts_event_stream(session.req_header()) {
            return Ok(true);
        }
        let peer = self.upstream_peer(session, ctx).await?;
        // Whoever authenticates requests knows this; here the client says it.
        let user = session.get_header("x-user").and_then(|value| value.to_str().ok()).unwrap_or("nobody").to_owned();
        let route = self.events.observed_by(Arc::new(PrintEnds { user: user.clone() }));
        self.takeover.take_over_with(session, &[*peer], &route, &ForUser(&user)).await
    }
}

/// Changes the heads of one request.
struct ForUser<'a>(&'a str);

impl Hooks for ForUser<'_> {
    fn upstream_request(&self, _: &Session, request: &mut RequestHeader) -> Result<()> {
        request.insert_header("X-Authenticated-User", self.0)
    }

    fn stream_response(&self, _: &Session, response: &mut ResponseHeader) -> Result<()> {
        response.insert_header("X-Carried-By", "plugin-example")
    }
}

/// Observes the stream of one request.
struct PrintEnds {
    user: String,
}

impl Observer for PrintEnds {
    fn ended(&self, ended: &Ended<'_>) {
        println!("{}: {} after {} events", self.user, ended.reason.as_str(), ended.counts.events);
    }
}

/// Waits for SIGTERM, ends all streams between two events, then lets Pingora stop.
struct Drain(Arc<Takeover>);

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut terminate = signal(SignalKind::terminate()).expect("signals can be waited for");
        terminate.recv().await;
        let drained = self.0.drain(Duration::from_secs(10)).await;
        println!("drained: {} ended, {} cut", drained.ended, drained.cut);
        ShutdownSignal::FastShutdown
    }
}

fn main() {
    let [listen, backend] = [1, 2].map(|at| std::env::args().nth(at).expect("usage: plugin-example LISTEN BACKEND"));
    let mut policy = Policy::default();
    policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_secs(15), Heartbeat::default()));
    policy.timeouts.idle = Some(Duration::from_secs(300));
    policy.timeouts.write = Some(Duration::from_secs(30));
    let takeover = Arc::new(Takeover::default());
    let events = Route::new("events", policy, Arc::new(()));

    let mut server = Server::new(None).expect("a server");
    let my_proxy = MyProxy { backend, takeover: takeover.clone(), events };
    let mut service = http_proxy_service(&server.configuration, my_proxy);
    service.add_tcp(&listen);
    server.add_service(service);
    server.run(RunArgs { shutdown_signal: Box::new(Drain(takeover)) });
}
