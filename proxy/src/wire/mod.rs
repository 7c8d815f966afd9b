//! HTTP/1.1 message framing, and what may stand before it, as pure functions and state machines over bytes.

pub mod body;
pub mod chunked;
pub mod frames;
pub mod proxy_protocol;
pub mod refusal;
pub mod request;
pub mod request_body;
pub mod trailers;
