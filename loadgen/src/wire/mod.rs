//! HTTP/1.1 as bytes: requests, response heads and message bodies. Opens no socket.

pub mod body;
pub mod chunked;
pub mod head;
pub mod request;
