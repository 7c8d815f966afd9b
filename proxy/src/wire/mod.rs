//! HTTP/1.1 message framing and header rules, as pure functions and state machines over bytes.

pub mod body;
pub mod chunked;
pub mod head;
pub mod trailers;
