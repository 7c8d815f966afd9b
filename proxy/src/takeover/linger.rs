//! Lets a client that is still sending its request read an early response.
//!
//! "If a server performs an immediate close of a TCP connection, there is a significant risk that the client will not be
//! able to read the last HTTP response" (RFC 9112 §9.6): bytes that arrive at a closed socket are answered with a reset,
//! which throws the response away at the client. So the rest of the request is read and dropped for a while.

use std::time::Duration;

use pingora::proxy::Session;
use tokio::time::{Instant, timeout_at};

/// How long the rest of a request is read (`lingering_timeout` in nginx). A client that sends for longer is
/// disconnected.
const LINGER: Duration = Duration::from_secs(5);

/// Reads and discards the rest of an HTTP/1 request's body. HTTP/2 does not need it: a reset of the stream does not
/// affect what was sent on it.
pub(super) async fn linger(session: &mut Session) {
    let until = Instant::now() + LINGER;
    while session.as_http1().is_some() && !session.downstream_session.is_body_done() {
        match timeout_at(until, session.downstream_session.read_request_body()).await {
            Ok(Ok(Some(_))) => {}
            _ => return,
        }
    }
}
