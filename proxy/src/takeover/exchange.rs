//! Sends the request and reads one response head, and not one byte of the body more than came with it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::HttpPeer;
use pingora::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora::proxy::Session;

use super::answer::{Beginning, Kind};
use super::connection::Connection;
use super::dial;
use super::head_reader::HeadReader;
use super::upload::{self, Upload};
use crate::driver::Rewind;
use crate::failure::Failure;
use crate::headers;
use crate::stream::Timeouts;
use crate::wire::body::Body;

/// What the upstream answered with.
pub(super) enum Answer {
    /// An event stream; nothing of its body has been interpreted.
    Stream(Box<UpstreamStream>),
    /// Anything else, to be read from its head on.
    Other(Box<OtherAnswer>),
}

/// An answer that is no event stream.
pub(super) struct OtherAnswer {
    /// Has read the head; the body follows.
    pub(super) upstream: UpstreamSession,
}

/// An event stream whose head has been read.
pub(super) struct UpstreamStream {
    pub(super) head: Box<ResponseHeader>,
    pub(super) body: Body,
    pub(super) connection: Connection,
    pub(super) leftover: Vec<u8>,
    pub(super) peer: Option<SocketAddr>,
}

pub(super) async fn exchange(
    connector: &TransportConnector,
    session: &mut Session,
    peers: &[HttpPeer],
    request: RequestHeader,
    timeouts: &Timeouts,
    body_limit: Option<Duration>,
) -> Result<Answer, Failure> {
    // Each phase on its own heap allocation: tens of thousands may wait for their heads, and what connecting needed has to
    // be gone by then.
    let (mut connection, peer) = Box::pin(dial::connect(connector, peers, timeouts.connect)).await?;
    let mut reader = HeadReader::default();
    let conversing = converse(session, &mut connection, &mut reader, &request, timeouts.first_byte, body_limit);
    let head = Box::pin(conversing).await?;
    Ok(match Beginning::of(&head, reader)? {
        Beginning::Stream { body, leftover } => {
            Answer::Stream(Box::new(UpstreamStream { head, body, connection, leftover, peer }))
        }
        Beginning::Other(bytes) => Answer::Other(Box::new(other_answer(bytes, connection).await?)),
    })
}

/// An answer that is no event stream, of which `bytes` have been read.
pub(super) async fn other_answer(bytes: Vec<u8>, connection: Connection) -> Result<OtherAnswer, Failure> {
    let mut upstream = UpstreamSession::new(Box::new(Rewind::new(bytes, connection)));
    upstream.read_response().await.map_err(|source| Failure::Broken { source })?;
    Ok(OtherAnswer { upstream })
}

/// Sends the request and reads up to the final response head, whichever way they overlap: an upstream may answer before
/// it has taken the whole request. Gives up at once when the client leaves. `limit` is for the upstream: it runs while the
/// upstream has to take the request or to answer it.
async fn converse(
    session: &mut Session,
    connection: &mut Connection,
    upstream: &mut HeadReader,
    request: &RequestHeader,
    limit: Option<Duration>,
    body_limit: Option<Duration>,
) -> Result<Box<ResponseHeader>, Failure> {
    let has_body = !session.is_body_empty();
    let expected = upload::expects_continue(session.req_header());
    let (mut reader, writer) = tokio::io::split(connection);
    let mut upload = Upload::new(writer, request, has_body, expected, body_limit)?;
    let mut refused = None;
    let mut since = Instant::now();
    loop {
        let waiting_for_client = refused.is_none() && !upload.is_done() && !upload.waits_for_upstream();
        let until = limit.filter(|_| !waiting_for_client).map(|limit| since + limit);
        tokio::select! {
            biased;
            read = upstream.next(&mut reader) => {
                let head = match (read, refused) {
                    (Ok(head), _) => head,
                    // What kept it from taking the request says more than that it then closed.
                    (Err(_), Some(failure)) => return Err(failure),
                    (Err(source), None) => return Err(Failure::Broken { source }),
                };
                refused = None;
                match Kind::of(&head) {
                    Kind::Continue => {}
                    Kind::Switching => return Err(Failure::Switched),
                    Kind::Interim => forward_interim(session, head).await?,
                    Kind::Final => return Ok(head),
                }
                // One interim answer after another leaves the sleep below no turn.
                if until.is_some_and(|until| until <= Instant::now()) {
                    return Err(Failure::FirstByteTimeout { limit: limit.unwrap_or_default() });
                }
            }
            step = go_on(session, &mut upload, refused.is_some()) => {
                since = Instant::now();
                match step {
                    Ok(()) => {}
                    // An upstream that takes no more may have said why: its answer counts, if there is one.
                    Err(failure @ Failure::Broken { .. }) => refused = Some(failure),
                    Err(failure) => return Err(failure),
                }
            }
            () = sleep_until(until) => {
                return Err(Failure::FirstByteTimeout { limit: limit.unwrap_or_default() });
            }
        }
    }
}

/// The client's side of the conversation: the request as long as there is more of it, then only whether the client is
/// still there.
async fn go_on(session: &mut Session, upload: &mut Upload<'_>, refused: bool) -> Result<(), Failure> {
    if refused {
        return std::future::pending().await;
    }
    if !upload.is_done() {
        return upload.step(session).await;
    }
    match session.downstream_session.read_body_or_idle(true).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Failure::ClientGone { source }),
    }
}

/// Passes on a 103 or the like. HTTP/1.0 knows none (RFC 9110 §15.2).
async fn forward_interim(session: &mut Session, mut head: Box<ResponseHeader>) -> Result<(), Failure> {
    if session.req_header().version < Version::HTTP_11 {
        return Ok(());
    }
    headers::strip_response(&mut head);
    let sent = session.downstream_session.write_response_header(head).await;
    sent.map_err(|source| Failure::ClientGone { source })
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
