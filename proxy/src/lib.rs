//! Carries Server-Sent Events between browsers and existing backends, inside any Pingora proxy.
//!
//! Called from [`ProxyHttp::proxy_upstream_filter`](pingora::proxy::ProxyHttp::proxy_upstream_filter), [`Takeover::take_over`]
//! connects to the backend, reads one response head and, if it begins an event stream, takes both connections out of Pingora:
//! the stream then costs a few hundred bytes, gets heartbeats between its events, and ends by the limits of its [`Policy`].
//! Any other answer is passed on over the client's session.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use pingora::prelude::*;
//! use sse_proxy::{Policy, Route, Takeover, accepts_event_stream};
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
//! let proxy = MyProxy { takeover: Takeover::default(), events: Route::new("events", Policy::default(), Arc::new(())) };
//! ```
//!
//! # Versions
//! Pingora's types are part of this crate's interface, so each minor version of this crate goes with one minor version of
//! Pingora: this one with 0.9. The crate also relies on how Pingora 0.9 drives a request (the order of hooks, what a session
//! reads ahead), which its tests check.
//!
//! # Features
//! - `server` (default): what the `sse-proxy` binary is made of: configuration, listeners, metrics, the command line. Not a
//!   public interface. Embed this crate with `default-features = false`.
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

pub use driver::{Ended, Observer, Route, StreamInfo, Totals};
pub use failure::Failure;
pub use headers::{TrustedProxies, accepts_event_stream};
pub use sse::{Heartbeat, HeartbeatError, HeartbeatStyle};
pub use stream::{Counts, EndReason, HeartbeatPolicy, Policy, Side, Timeouts};
pub use takeover::{Drained, Hooks, Takeover};
