//! Answers a request that got no response from the upstream.

use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, Result};
use pingora::proxy::Session;

use crate::failure::Failure;

/// Writes the failure's status with a body that tells what failed. The connection is not used again.
///
/// # Errors
/// When the answer cannot be written; and always for a client that is gone, so that nobody tries to answer it.
pub(super) async fn answer(session: &mut Session, failure: Failure) -> Result<()> {
    // A server's address stays in the log: clients have no business with it.
    let what = match failure {
        Failure::ClientGone { source } => {
            return Error::e_because(ErrorType::ConnectionClosed, "before the response head", source)
                .map_err(|error: Box<Error>| error.into_down());
        }
        Failure::Connect { .. } => "cannot connect to the upstream".to_owned(),
        Failure::ConnectTimeout { limit, .. } => {
            format!("connecting to the upstream took longer than timeouts.connect ({limit:?})")
        }
        ref other => other.to_string(),
    };
    let status = failure.status();
    let body = format!("{status} {what}\n");
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    head.insert_header("Content-Length", body.len())?;
    head.insert_header("Cache-Control", "no-store")?;
    head.insert_header("Proxy-Status", format!("sse-proxy; error={}", failure.proxy_status()))?;
    let written = session.downstream_session.write_error_response(head, Bytes::from(body)).await;
    written.map_err(|error| error.into_down())
}
