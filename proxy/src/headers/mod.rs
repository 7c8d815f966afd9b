//! Header policy: what the proxy reads in request and response heads, and what it changes in them.
//!
//! Everything that is not named here passes untouched: `Last-Event-ID`, `traceparent`, cookies, CORS, authorization.

mod fields;
mod forwarded;
mod request;
mod response;

pub use forwarded::{TrustedProxies, set_forwarded};
pub use request::{RequestError, accepts_event_stream, check_http2_request, normalize_request, stream_request};
pub use response::{FramingError, is_event_stream, is_identity, response_body, stream_response, write_response};

pub use fields::strip_response;
