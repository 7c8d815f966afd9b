//! sse-proxy: carries Server-Sent Events between browsers and existing backends.

pub mod sse;
pub mod stream;
pub mod wire;
