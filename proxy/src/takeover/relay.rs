//! Passes on an answer that is no event stream, whole and in its own framing, over the client's session.

use pingora::ErrorType;
use pingora::http::{StatusCode, Version};
use pingora::prelude::{Error, Result};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use tokio::time::timeout;

use super::exchange::OtherAnswer;
use crate::driver::bound_send_queue;
use crate::headers;
use crate::stream::Timeouts;

/// Bytes written to the client at once: `timeouts.write` is for so many, however large the answer is.
const SLICE_BYTES: usize = 16 * 1024;

/// Writes the head that the answer has brought, then its body as it comes.
///
/// # Errors
/// When either side fails or takes too long; the error tells which side.
pub(super) async fn relay(session: &mut Session, answer: OtherAnswer, timeouts: &Timeouts) -> Result<()> {
    let mut upstream = answer.upstream;
    let Some(mut response) = upstream.resp_header().cloned() else { return Ok(()) };
    headers::strip_response(&mut response);
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
    if let Some(stream) = session.stream() {
        bound_send_queue(stream, timeouts.write);
    }

    let mut ended = upstream.is_body_done();
    write(session, HttpTask::Header(Box::new(response), ended)).await?;
    while !ended {
        let next = async {
            // What is left of the request's body is read and dropped: left unread, it would reset the connection.
            let body_done = session.downstream_session.is_body_done();
            tokio::select! {
                task = upstream.read_response_task() => task.map(Some).map_err(|error| error.into_up()),
                gone = session.downstream_session.read_body_or_idle(body_done) => {
                    gone.map(|_| None).map_err(|error| error.into_down())
                }
            }
        };
        let task = match timeouts.idle {
            Some(limit) => timeout(limit, next).await.unwrap_or_else(|_| {
                Error::e_explain(ErrorType::ReadTimedout, "the upstream was silent for timeouts.idle")
                    .map_err(|error: Box<Error>| error.into_up())
            }),
            None => next.await,
        }?;
        let Some(task) = task else { continue };
        ended = task.is_end();
        match task {
            HttpTask::Body(Some(mut bytes), end) => {
                while bytes.len() > SLICE_BYTES {
                    write(session, HttpTask::Body(Some(bytes.split_to(SLICE_BYTES)), false)).await?;
                }
                write(session, HttpTask::Body(Some(bytes), end)).await?;
            }
            task => write(session, task).await?,
        }
    }
    Ok(())
}

async fn write(session: &mut Session, task: HttpTask) -> Result<()> {
    session.write_response_tasks(vec![task]).await.map(|_| ()).map_err(|error| error.into_down())
}
