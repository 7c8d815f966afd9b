//! Connects, sends the request, and reads one response head.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora::proxy::Session;
use pingora::upstreams::peer::Peer;
use tokio::time::timeout;

use super::gate::Gate;
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
    Other(Box<UpstreamSession>),
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
    let (connection, peer) = connect(connector, peers, timeouts.connect).await?;
    let mut upstream = UpstreamSession::new_with_options(Box::new(Gate::new(connection)), peer);
    let sent = send_request(session, &mut upstream, request, timeouts.first_byte).await;
    if let Err(failure @ Failure::ClientGone { .. }) = sent {
        return Err(failure);
    }
    // An upstream that broke the request off may have said why: its answer counts, if there is one.
    let head = match (read_head(session, &mut upstream, timeouts.first_byte).await, sent) {
        (Ok(head), _) => head,
        (Err(_), Err(failure)) | (Err(failure), Ok(())) => return Err(failure),
    };
    let body = head::response_body(&head).map_err(|source| Failure::Invalid { source })?;
    if !head::is_event_stream(&head) {
        return Ok(Answer::Other(Box::new(upstream)));
    }
    let Ok(gate) = upstream.into_inner().into_any().downcast::<Gate>() else {
        let source = Error::explain(pingora::ErrorType::InternalError, "the upstream session lost its connection");
        return Err(Failure::Broken { source });
    };
    let (connection, leftover) = gate.into_parts();
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

/// Writes the head, and the body as it comes from the client.
async fn send_request(
    session: &mut Session,
    upstream: &mut UpstreamSession,
    request: RequestHeader,
    limit: Option<Duration>,
) -> Result<(), Failure> {
    let gone = |source| Failure::ClientGone { source };
    let broken = |source| Failure::Broken { source };
    let has_body = !session.is_body_empty();
    within(limit, upstream.write_request_header(Box::new(request)))
        .await
        .map_err(|limit| Failure::FirstByteTimeout { limit })?
        .map_err(broken)?;
    if !has_body {
        return Ok(());
    }
    if expects_continue(session.req_header()) {
        session.write_continue_response().await.map_err(gone)?;
    }
    while let Some(bytes) = session.downstream_session.read_request_body().await.map_err(gone)? {
        within(limit, upstream.write_body(&bytes))
            .await
            .map_err(|limit| Failure::FirstByteTimeout { limit })?
            .map_err(broken)?;
    }
    upstream.finish_body().await.map(|_| ()).map_err(broken)
}

/// "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation"
/// (RFC 9110 §10.1.1).
fn expects_continue(request: &RequestHeader) -> bool {
    request.version >= Version::HTTP_11
        && request.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads up to the final response head. Gives up at once when the client leaves.
async fn read_head(
    session: &mut Session,
    upstream: &mut UpstreamSession,
    limit: Option<Duration>,
) -> Result<Box<ResponseHeader>, Failure> {
    let watch = session.downstream_session.is_body_done();
    let wait = async {
        loop {
            tokio::select! {
                read = upstream.read_resp_header_parts() => {
                    let head = read.map_err(|source| Failure::Broken { source })?;
                    if !head.status.is_informational() {
                        return Ok(head);
                    }
                    // 100 is for the proxy; 103 and the like are for the client.
                    if head.status != 100 && session.req_header().version >= Version::HTTP_11 {
                        let sent = session.downstream_session.write_response_header(head).await;
                        sent.map_err(|source| Failure::ClientGone { source })?;
                    }
                }
                gone = session.downstream_session.read_body_or_idle(true), if watch => {
                    if let Err(source) = gone {
                        return Err(Failure::ClientGone { source });
                    }
                }
            }
        }
    };
    within(limit, wait).await.unwrap_or_else(|limit| Err(Failure::FirstByteTimeout { limit }))
}

/// Waits within a limit, if there is one; what comes back in its place is the limit that was hit.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Result<T, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}
