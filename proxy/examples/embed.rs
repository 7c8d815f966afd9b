//! A Pingora proxy of one's own that hands its event streams to sse-proxy: one field, one hook, one call.
//!
//! `cargo run --example embed -- 127.0.0.1:8080 127.0.0.1:3000`
#![allow(clippy::print_stdout, reason = "an example is a program")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::prelude::*;
use sse_proxy::{Ended, Heartbeat, HeartbeatPolicy, Observer, Policy, Route, Takeover, accepts_event_stream};

struct MyProxy {
    backend: String,
    takeover: Takeover,
    streams: Arc<Route>,
}

#[async_trait]
impl ProxyHttp for MyProxy {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.backend, false, String::new())))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
        if !accepts_event_stream(session.req_header()) {
            return Ok(true);
        }
        let peer = self.upstream_peer(session, ctx).await?;
        self.takeover.take_over(session, &[*peer], &self.streams).await
    }
}

struct PrintEnds;

impl Observer for PrintEnds {
    fn ended(&self, ended: &Ended<'_>) {
        println!("{} ended: {} after {} events", ended.info.path(), ended.reason.as_str(), ended.counts.events);
    }
}

fn main() {
    let [listen, backend] = [1, 2].map(|at| std::env::args().nth(at).expect("usage: embed LISTEN BACKEND"));
    let mut policy = Policy::default();
    policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_millis(100), Heartbeat::default()));
    let streams = Route::new("example", policy, Arc::new(PrintEnds));
    let mut server = Server::new(None).expect("a server");
    let my_proxy = MyProxy { backend, takeover: Takeover::default(), streams };
    let mut service = http_proxy_service(&server.configuration, my_proxy);
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}
