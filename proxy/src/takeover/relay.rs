//! Forwards a response other than an event stream to the client: its head, its body as a [`Page`], its trailers; and keeps
//! the upstream's connection.

use std::future::poll_fn;

use pingora::ErrorType;
use pingora::http::Version;
use pingora::prelude::{OrErr, Result};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::client::Client;
use super::exchange::Answer;
use super::linger;
use super::page::{Page, PageEnd};
use super::pool::Pool;
use super::stand_in::stand_in;
use crate::exchange::BodyStart;
use crate::headers::{self, PageFraming};
use crate::stream::Policy;
use crate::wire::body::Body;
use crate::wire::trailers;

/// Writes the response's head, then its body as it arrives. Keeps the upstream's connection if it can be reused.
///
/// # Errors
/// When either side fails or takes too long; the error says which side. The client then sees an incomplete response.
pub(super) async fn relay(session: &mut Session, answer: Answer, pool: &Pool, policy: &Policy) -> Result<()> {
    let timeouts = &policy.timeouts;
    let Answer { mut head, body_start, connection, upload, key, .. } = answer;
    let framing = framing(session, body_start.has_body, &body_start.body);
    let is_http2 = session.as_http2().is_some();
    let takes_trailers = body_start.has_body
        && matches!(body_start.body, Body::Chunked(_))
        && (framing == PageFraming::Chunked || is_http2);
    if framing == PageFraming::UntilEnd || (takes_trailers && head.headers.contains_key("trailer")) {
        // Over HTTP/1 trailers end the connection, see `end_with_trailers`.
        session.set_keepalive(None);
    }
    let keeps_connection = headers::keeps_connection(&head) && is_delimited(head.status.as_u16(), &body_start);
    headers::page_response(&mut head, framing, takes_trailers)?;
    if let Some(rules) = &policy.heads {
        rules.change_response(&mut head)?;
    }
    session.downstream_modules_ctx.response_header_filter(&mut head, !body_start.has_body).await?;

    let BodyStart { body, has_body, leftover, .. } = body_start;
    let mut page = Page::new(Client::new(session), connection, upload, (body, has_body), takes_trailers, timeouts);
    page.client.bound_queue(timeouts.write);
    page.client.send_head(head, !has_body)?;
    page.begin(leftover.into());
    poll_fn(|cx| page.poll(cx)).await?;

    let PageEnd { connection, upload, excess, trailers } = page.into_end();
    if let Some(key) = key.filter(|_| keeps_connection && upload.is_done() && !excess) {
        pool.put(key, connection);
    }
    if let Some(trailers) = trailers {
        let sending = end_with_trailers(session, &trailers);
        return match timeouts.write {
            Some(limit) => timeout(limit, sending).await.or_err(ErrorType::WriteTimedout, "writing trailers")?,
            None => sending.await,
        };
    }
    if !upload.is_done() {
        session.set_keepalive(None);
        linger::linger(session).await;
    }
    Ok(())
}

/// The framing of the body for this client.
fn framing(session: &Session, has_body: bool, body: &Body) -> PageFraming {
    match (has_body, body) {
        (false, _) => PageFraming::NoBody,
        (true, Body::Length(length)) => PageFraming::Length(*length),
        (true, _) if session.req_header().version == Version::HTTP_11 => PageFraming::Chunked,
        // HTTP/1.0 ends its body with the connection, HTTP/2 with the stream.
        (true, _) => PageFraming::UntilEnd,
    }
}

/// Whether the end of the response is known, so that another may follow it. A body that a 205 has despite its status is
/// not read.
fn is_delimited(status: u16, body_start: &BodyStart) -> bool {
    match (body_start.has_body, &body_start.body) {
        (true, body) => !matches!(body, Body::UntilClose),
        (false, body) => status != 205 || matches!(body, Body::Length(0)),
    }
}

/// Writes the last chunk with trailers, which Pingora's session cannot, and closes the connection.
async fn end_with_trailers(session: &mut Session, section: &[u8]) -> Result<()> {
    let Some(response) = session.response_written().cloned() else { return Ok(()) };
    session.set_keepalive(None);
    let stand_in = stand_in(&session.downstream_session, Box::new(response)).await?;
    let ServerSession::H1(client) = std::mem::replace(&mut *session.downstream_session, stand_in) else {
        return Ok(());
    };
    let mut client = client.into_inner();
    let mut last = Vec::new();
    trailers::encode_last_chunk(section, &mut last);
    let sent = async {
        client.write_all(&last).await?;
        client.flush().await?;
        AsyncWriteExt::shutdown(&mut client).await
    };
    sent.await.or_err(ErrorType::WriteError, "writing trailers").map_err(|error| error.into_down())?;
    linger::close(client);
    Ok(())
}

#[cfg(test)]
mod tests {
    use pingora::http::ResponseHeader;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::connection::UpstreamConnection;
    use super::super::stand_in::Replay;
    use super::super::upload::Upload;
    use super::*;

    /// Invariant: a response arrives whole though its upstream does not want the rest of the request. Mechanism: after sixteen
    /// reads in a row the rest of the request was taken for bytes behind it. Symptom: an upload of megabytes that is refused
    /// early gets a reset in place of its 413.
    #[tokio::test]
    async fn a_long_upload_that_is_not_wanted_does_not_cut_the_response() {
        let length = 4 << 20;
        let mut wire = format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        wire.resize(wire.len() + length, b'x');
        let mut session = Session::new_h1(Box::new(Replay::of(wire.into())));
        assert!(session.downstream_session.read_request().await.expect("a request"));
        let mut upload = Upload::new(session.req_header(), true, false, None).expect("a request");
        upload.abandon();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let body = Body::Length(4);
        let body_start = BodyStart { is_stream: false, body, has_body: true, leftover: b"much".to_vec() };
        let head = Box::new(ResponseHeader::build(413, None).expect("a head"));
        let answer =
            Answer { head, body_start, connection: UpstreamConnection::Tcp(upstream), upload, server: None, key: None };
        relay(&mut session, answer, &Pool::default(), &Policy::default()).await.expect("a whole response");
        assert_eq!(session.body_bytes_sent(), 4);
    }
}
