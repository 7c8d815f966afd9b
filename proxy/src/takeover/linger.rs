//! Closes the connection of a client that is still sending its request, behind an early response.
//!
//! A [`ClientConnection`] lingers when it is dropped. A proxy that embeds the plugin has other connections, which Pingora
//! closes.

use pingora::protocols::Stream;
use pingora::proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::client_connection::ClientConnection;
use super::client_transport::{self, LINGER};

/// Reads and discards the rest of an HTTP/1 request's body, as long as a connection would linger. HTTP/2 does not need it:
/// a reset of the stream does not affect what was sent on it.
pub(super) async fn linger(session: &mut Session) {
    let until = Instant::now() + LINGER;
    if session.stream().is_none_or(lingers_when_dropped) {
        return;
    }
    while !session.downstream_session.is_body_done() {
        match timeout_at(until, session.downstream_session.read_request_body()).await {
            Ok(Ok(Some(_))) => {}
            _ => return,
        }
    }
}

/// Closes a connection whose last response has been written, in the background. The client may be sending its next request
/// already. Must be called on a tokio runtime.
pub(super) fn close(stream: Stream) {
    if !lingers_when_dropped(&stream) {
        tokio::spawn(client_transport::linger(stream));
        return;
    }
    let connection = stream.into_any().downcast::<ClientConnection>().ok();
    if let Some((_, transport)) = connection.and_then(|connection| connection.into_parts()) {
        tokio::spawn(client_transport::linger(transport));
    }
}

fn lingers_when_dropped(stream: &Stream) -> bool {
    stream.as_any().is::<ClientConnection>()
}
