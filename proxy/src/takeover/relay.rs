//! Passes on an answer that is no event stream, whole and in its own framing, over the client's session.

use pingora::http::{StatusCode, Version};
use pingora::prelude::Result;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora::proxy::Session;
use tokio::time::timeout;

use crate::stream::Timeouts;
use crate::wire::head;

/// Writes the head that `upstream` has read, then its body as it comes.
pub(super) async fn relay(session: &mut Session, mut upstream: UpstreamSession, timeouts: &Timeouts) -> Result<()> {
    let Some(mut response) = upstream.resp_header().cloned() else { return Ok(()) };
    head::strip_response(&mut response);
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless && !response.headers.contains_key("content-length") {
        if session.req_header().version == Version::HTTP_11 {
            response.insert_header("Transfer-Encoding", "chunked")?;
        } else {
            // HTTP/1.0 ends its body with the connection; HTTP/2 does not mind.
            session.set_keepalive(None);
        }
    }
    response.set_version(Version::HTTP_11);
    if !session.downstream_session.is_body_done() {
        session.set_keepalive(None);
    }
    session.downstream_session.set_write_timeout(timeouts.write);

    let mut ended = upstream.is_body_done();
    session.write_response_tasks(vec![HttpTask::Header(Box::new(response), ended)]).await?;
    while !ended {
        let next = async {
            tokio::select! {
                task = upstream.read_response_task() => task.map(Some),
                gone = session.downstream_session.read_body_or_idle(true) => gone.map(|_| None),
            }
        };
        let task = match timeouts.idle {
            Some(limit) => timeout(limit, next).await.unwrap_or_else(|_| {
                pingora::Error::e_explain(pingora::ErrorType::ReadTimedout, "the upstream was silent for timeouts.idle")
                    .map_err(|error: Box<pingora::Error>| error.into_up())
            }),
            None => next.await,
        }?;
        let Some(task) = task else { continue };
        ended = task.is_end();
        session.write_response_tasks(vec![task]).await?;
    }
    Ok(())
}
