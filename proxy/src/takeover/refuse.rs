//! Answers a request that got no response from the upstream.

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::prelude::Result;
use pingora::proxy::Session;

use crate::failure::Failure;

/// Writes 502 or 504 with a body that tells what failed. A client that is gone gets it too: nobody reads it, and it
/// keeps Pingora from trying an answer of its own. The connection is not used again.
///
/// # Errors
/// When the answer cannot be written.
pub(super) async fn answer(session: &mut Session, failure: &Failure) -> Result<()> {
    // A server's address stays in the log: clients have no business with it.
    let what = match failure {
        Failure::Connect { .. } => "cannot connect to the upstream".to_owned(),
        Failure::ConnectTimeout { limit, .. } => {
            format!("connecting to the upstream took longer than timeouts.connect ({limit:?})")
        }
        other => other.to_string(),
    };
    let status = failure.status();
    let body = format!("{status} {what}\n");
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    head.insert_header("Content-Length", body.len())?;
    head.insert_header("Cache-Control", "no-store")?;
    head.insert_header("Proxy-Status", format!("sse-proxy; error={}", failure.proxy_status()))?;
    let written = session.downstream_session.write_error_response(head, Bytes::from(body)).await;
    if let Failure::ClientGone { .. } = failure { Ok(()) } else { written }
}
