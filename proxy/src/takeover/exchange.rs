//! Connects, sends the request, and reads one response head.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pingora::ErrorType;
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora::proxy::Session;
use pingora::upstreams::peer::Peer;
use tokio::time::timeout;

use super::gate::Gate;
use super::upload::{self, Upload};
use crate::failure::Failure;
use crate::stream::Timeouts;
use crate::wire::body::Body;
use crate::wire::head;

/// Receive buffer of an upstream's socket, in bytes (the kernel doubles it for its bookkeeping). Setting it ends
/// autotuning, which would let megabytes collect for a client that does not read.
const UPSTREAM_RECEIVE_BYTES: usize = 64 * 1024;

/// What the upstream answered with.
pub(super) enum Answer {
    /// An event stream; nothing of its body has been interpreted.
    Stream(Box<UpstreamStream>),
    /// Anything else, to be read on over the session.
    Other(Box<OtherAnswer>),
}

/// An answer that is no event stream.
pub(super) struct OtherAnswer {
    pub(super) upstream: UpstreamSession,
    /// Keeps the connection's writing half: without it the upstream would see its client leave.
    _upload: Upload,
}

/// An event stream whose head has been read.
pub(super) struct UpstreamStream {
    pub(super) head: Box<ResponseHeader>,
    pub(super) body: Body,
    pub(super) connection: Stream,
    pub(super) leftover: Vec<u8>,
    pub(super) peer: Option<SocketAddr>,
}

pub(super) async fn exchange(
    connector: &TransportConnector,
    session: &mut Session,
    peers: &[HttpPeer],
    request: RequestHeader,
    timeouts: &Timeouts,
) -> Result<Answer, Failure> {
    // Each phase on its own heap allocation: tens of thousands may wait for their heads, and what connecting needed has to
    // be gone by then.
    let (connection, peer) = Box::pin(connect(connector, peers, timeouts.connect)).await?;
    let (reader, writer) = tokio::io::split(connection);
    let mut upstream = UpstreamSession::new_with_options(Box::new(Gate::new(reader)), peer);
    let has_body = !session.is_body_empty();
    let expected = upload::expects_continue(session.req_header());
    let mut upload = Upload::new(writer, &request, has_body, expected)?;
    let head = Box::pin(converse(session, &mut upstream, &mut upload, timeouts.first_byte)).await?;
    let body = head::response_body(&head).map_err(|source| Failure::Invalid { source })?;
    if !head::is_event_stream(&head) {
        return Ok(Answer::Other(Box::new(OtherAnswer { upstream, _upload: upload })));
    }
    let Ok(gate) = upstream.into_inner().into_any().downcast::<Gate>() else {
        let source = Error::explain(ErrorType::InternalError, "the upstream session lost its connection");
        return Err(Failure::Broken { source });
    };
    let (reader, leftover) = gate.into_parts();
    let connection = reader.unsplit(upload.into_writer());
    let peer = peer.address().as_inet().copied();
    Ok(Answer::Stream(Box::new(UpstreamStream { head, body, connection, leftover, peer })))
}

/// Tries the servers in their order. Nothing has been sent yet, so trying the next is always safe.
async fn connect<'a>(
    connector: &TransportConnector,
    peers: &'a [HttpPeer],
    limit: Option<Duration>,
) -> Result<(Stream, &'a HttpPeer), Failure> {
    let mut failure = Failure::NoServer;
    for peer in peers {
        let mut with_options = peer.clone();
        with_options.options.tcp_recv_buf = Some(UPSTREAM_RECEIVE_BYTES);
        failure = match within(limit, connector.new_stream(&with_options)).await {
            Ok(Ok(connection)) => return Ok((connection, peer)),
            Ok(Err(source)) => Failure::Connect { peer: peer.address().to_string(), source },
            Err(limit) => Failure::ConnectTimeout { peer: peer.address().to_string(), limit },
        };
    }
    Err(failure)
}

/// Sends the request and reads up to the final response head, whichever way they overlap. Gives up at once when the
/// client leaves. `limit` is for the upstream: it runs while the upstream has to take the request or to answer it.
async fn converse(
    session: &mut Session,
    upstream: &mut UpstreamSession,
    upload: &mut Upload,
    limit: Option<Duration>,
) -> Result<Box<ResponseHeader>, Failure> {
    let mut refused = None;
    let mut since = Instant::now();
    loop {
        let waiting_for_client = refused.is_none() && !upload.is_done() && !upload.waits_for_upstream();
        let until = limit.filter(|_| !waiting_for_client).map(|limit| since + limit);
        tokio::select! {
            biased;
            read = upstream.read_resp_header_parts() => {
                let head = match (read, refused) {
                    (Ok(head), _) => head,
                    // What kept it from taking the request says more than that it then closed.
                    (Err(_), Some(failure)) => return Err(failure),
                    (Err(source), None) => return Err(Failure::Broken { source }),
                };
                refused = None;
                match head.status.as_u16() {
                    100 => {}
                    101 => return Err(Failure::Switched),
                    102..=199 => forward_interim(session, head).await?,
                    _ => return Ok(head),
                }
            }
            step = go_on(session, upload, refused.is_some()) => {
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
async fn go_on(session: &mut Session, upload: &mut Upload, refused: bool) -> Result<(), Failure> {
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
    head::strip_response(&mut head);
    let sent = session.downstream_session.write_response_header(head).await;
    sent.map_err(|source| Failure::ClientGone { source })
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits within a limit, if there is one; what comes back in its place is the limit that was hit.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Result<T, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}
