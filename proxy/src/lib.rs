//! Carries Server-Sent Events between clients and existing backends, inside any [Pingora](pingora) proxy.
//!
//! Call [`Takeover::take_over`] from [`ProxyHttp::proxy_upstream_filter`](pingora::proxy::ProxyHttp::proxy_upstream_filter). It
//! connects to the backend, sends the request, and reads the response head. If the response is an event stream, both connections
//! leave Pingora: the stream then costs a few hundred bytes, gets heartbeats between its events, and ends by the limits of its
//! [`Policy`]. Any other response goes to the client over Pingora's session.
//!
//! - [`Takeover`] connects and carries streams. Create one per process and share it.
//! - [`Route`] is a group of streams with the same rules and counters. Create one per kind of stream, at the start.
//! - [`Policy`] has the rules: heartbeats and timeouts. **Its default sends no heartbeats and sets no limits.**
//! - [`Observer`] is told when a stream begins and ends, and which requests fail before that; `()` observes nothing.
//! - [`Hooks`] change the request of one call, and the response head if it becomes a stream.
//! - [`Takeover::drain`] ends all streams between two events; call it when your proxy shuts down. Otherwise Pingora's shutdown cuts them.
//! - [`TrustedProxies`] says whose `X-Forwarded-For` and similar fields are believed.
//!
//! # Example
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use pingora::prelude::*;
//! use sse_proxy::{Heartbeat, HeartbeatPolicy, Policy, Route, Takeover, accepts_event_stream};
//!
//! struct MyProxy {
//!     takeover: Takeover,
//!     events: Arc<Route>,
//! }
//!
//! #[async_trait]
//! impl ProxyHttp for MyProxy {
//!     type CTX = ();
//!     fn new_ctx(&self) {}
//!
//!     async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
//!         Ok(Box::new(HttpPeer::new("127.0.0.1:3000", false, String::new())))
//!     }
//!
//!     async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut ()) -> Result<bool> {
//!         if !accepts_event_stream(session.req_header()) {
//!             return Ok(true);
//!         }
//!         let peer = self.upstream_peer(session, ctx).await?;
//!         self.takeover.take_over(session, &[*peer], &self.events).await
//!     }
//! }
//!
//! let mut policy = Policy::default();
//! policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_secs(15), Heartbeat::default()));
//! policy.timeouts.connect = Some(Duration::from_secs(3));
//! policy.timeouts.first_byte = Some(Duration::from_secs(60));
//! policy.timeouts.idle = Some(Duration::from_secs(300));
//! policy.timeouts.write = Some(Duration::from_secs(30));
//! let proxy = MyProxy { takeover: Takeover::default(), events: Route::new("events", policy, Arc::new(())) };
//! ```
//!
//! Serve `proxy` with [`http_proxy_service`](pingora::proxy::http_proxy_service), as any other. The values are the defaults of the
//! `sse-proxy` program.
//!
//! # What applies to a request that is taken over
//!
//! | | |
//! |---|---|
//! | runs | `request_filter` and all of Pingora's hooks before `proxy_upstream_filter`; downstream modules, on the head of a stream and on head and body of other responses; `logging`, when a stream begins or another response has ended |
//! | does not run | `upstream_request_filter` (use [`Hooks::upstream_request`]), `upstream_response_filter` and `response_filter` (for streams use [`Hooks::stream_response`]; there is nothing in their place for other responses), body and trailer filters, `connected_to_upstream`, `fail_to_connect`, `error_while_proxy`, Pingora's cache and its retries. `fail_to_proxy` runs only if `take_over` returns an error |
//! | modules | One that changes bodies does not work on streams, whose bodies do not go through it. Pingora's compression is switched off for them |
//! | upstream | HTTP/1.1, over TLS if the peer says so, whatever ALPN the peer has. [`Policy::timeouts`] replaces the peer's connect, read and write timeouts; [`Policy::keep_alive`] holds for peers without one of their own |
//! | instead of retries | each of the `peers` is tried once, in order, if the one before cannot be connected to. Without any, the answer is 502 |
//! | failures | [`Observer::failed`], and a response with the status of [`Failure::status`] (400, 408, 502 or 504) and a sentence as body; none if the client has closed the connection or does not read ([`Failure::ClientGone`], [`Failure::WriteTimeout`]) |
//! | request | removed: connection fields, `Expect` (the proxy answers it), `Accept-Encoding` (heartbeats cannot be added to an encoded body), and forwarding fields as [`TrustedProxies`] says; added: `Connection: close`, `Incremental`, `Via`, `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `X-Real-IP`. All this comes before [`Hooks::upstream_request`] |
//! | response | `Via` is added. On a stream also `Cache-Control: no-cache, no-transform`, `X-Accel-Buffering: no`, `Incremental`, and over HTTP/1 `Connection: close`; `Content-Length` is removed |
//! | set by the backend | `Sse-Proxy-Lifetime`, `Sse-Proxy-Heartbeat` and `Sse-Proxy-Label` in a stream's response head change the rules of that stream and give it [`StreamInfo::labels`]. Fields that begin with `Sse-Proxy-` are removed from all requests and responses |
//! | never taken over | HEAD requests and upgrades, such as WebSocket ([`Takeover::can_take`]): `take_over` returns `Ok(true)`, and Pingora continues |
//!
//! `take_over` returns when a stream begins. A stream that begins while its request is still being uploaded is the exception: it stays
//! in `take_over`, `logging` runs at its end, and dropping the future ends it.
//!
//! A panic while one stream is handled ends that stream. A panic anywhere else in a reactor thread aborts the process.
//!
//! [`accepts_event_stream`] is one way to choose requests: it is true for those of `EventSource`. For endpoints whose clients send no
//! such `Accept`, as POST to a model server, choose by path: a response that is not an event stream is passed on as well.
//!
//! Messages go to the [`log`](https://docs.rs/log) crate.
//!
//! # Versions
//! Pingora's types are part of this crate's interface, so each minor version of this crate goes with one minor version of
//! Pingora: this one with 0.9.1 or a later 0.9; it is tested with 0.9.1. The crate also relies on how Pingora 0.9 drives a request (the order of hooks, what a session
//! reads ahead), which its tests check.
//!
//! # Features
//! - `server` (default): what the `sse-proxy` binary is made of: configuration, listeners, metrics, the command line. Not a
//!   public interface. Embed this crate with `default-features = false`; then Pingora's features are yours to choose: for upstreams
//!   or clients over TLS one of `rustls`, `openssl`, `boringssl` and `s2n`.
//! - `jemalloc` (default): the binary's allocator.
#![cfg_attr(
    not(feature = "server"),
    allow(
        dead_code,
        unused_imports,
        unreachable_pub,
        reason = "some items are used only by the binary, which accepts connections itself"
    )
)]

// Internals for the binary, its tests and its benchmarks; hidden, and private without the `server` feature.
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod driver;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod failure;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod headers;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod limits;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod sse;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod stream;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod takeover;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod wire;

#[cfg(not(feature = "server"))]
mod driver;
#[cfg(not(feature = "server"))]
mod failure;
#[cfg(not(feature = "server"))]
mod headers;
#[cfg(not(feature = "server"))]
mod limits;
#[cfg(not(feature = "server"))]
mod sse;
#[cfg(not(feature = "server"))]
mod stream;
#[cfg(not(feature = "server"))]
mod takeover;
#[cfg(not(feature = "server"))]
mod threads;
#[cfg(not(feature = "server"))]
mod wire;

mod exchange;
mod sys;

// The server.
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod access_log;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod admin;
#[cfg(feature = "server")]
mod certificate;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod connections;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod control;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod fallback;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod gateway;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod listen;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod logging;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod metrics;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod routing;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod server;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod threads;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod upstream;

pub use driver::{Ended, Observer, Route, RunningStream, StreamId, StreamInfo, Totals, Visitor};
pub use failure::Failure;
pub use headers::{FramingError, TrustedProxies, accepts_event_stream};
pub use ipnet::IpNet;
pub use sse::{Heartbeat, HeartbeatError, HeartbeatStyle};
pub use stream::{Counts, EndReason, HeartbeatPolicy, KeepAlive, Policy, RetryRange, Side, Timeouts};
pub use takeover::{Drained, Hooks, Takeover};
