//! sse-proxy: carries Server-Sent Events between browsers and existing backends.
//!
//! The binary is a Pingora proxy with one plugin, which accepts plain connections by itself. The plugin is here for other
//! Pingora proxies too: [`takeover`] is the call that takes a stream over, [`driver::Route`] is what it is told of the
//! stream's rules, and [`driver::Observer`] is who is told of its end. `examples/embed.rs` shows it whole.

pub mod access_log;
pub mod admin;
pub mod cli;
pub mod config;
pub mod connections;
pub mod driver;
pub mod failure;
pub mod fallback;
pub mod gateway;
pub mod headers;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod sse;
pub mod stream;
mod sys;
pub mod takeover;
pub mod threads;
pub mod upstream;
pub mod wire;
