//! Sends the request and reads the final response head, without reading the body further than the bytes that came with
//! it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pingora::ErrorType;
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::prelude::{Error, HttpPeer};
use pingora::proxy::Session;
use pingora::upstreams::peer::Peer;
use tokio::time::Sleep;

use super::answer::{BodyStart, HeadKind};
use super::client::Client;
use super::connection::UpstreamConnection;
use super::dial::{self, Connected, Purpose};
use super::head_reader::HeadReader;
use super::pool::Pool;
use super::upload::{self, Upload, WaitsFor};
use crate::failure::Failure;
use crate::headers;
use crate::stream::Timeouts;

/// A response whose head has been read, with its connection and the rest of its request.
pub(super) struct Answer {
    pub(super) head: Box<ResponseHeader>,
    pub(super) body_start: BodyStart,
    pub(super) connection: UpstreamConnection,
    /// The unsent rest of the request.
    pub(super) upload: Upload,
    /// The server's address, where it is known.
    pub(super) server: Option<SocketAddr>,
    /// The key under which the connection is kept for another request, if it may be.
    pub(super) key: Option<u64>,
}

/// The connector and the pool of connections to upstreams.
pub(super) struct Upstreams {
    pub(super) connector: TransportConnector,
    pub(super) pool: Pool,
}

/// Sends `request` to the first of `peers` that can be connected to.
///
/// A page may use an idle connection if the request is repeatable: if the server closes that connection before the
/// first byte of the response, the request is sent once more on a new one.
pub(super) async fn exchange(
    upstreams: &Upstreams,
    session: &mut Session,
    peers: &[HttpPeer],
    request: &RequestHeader,
    is_stream: bool,
    timeouts: &Timeouts,
    body_limit: Option<Duration>,
) -> Result<Answer, Failure> {
    let has_body = !session.is_body_empty();
    let purpose = match is_stream {
        true => Purpose::Stream,
        false => Purpose::Page { idle: headers::is_repeatable(request, has_body) },
    };
    let mut peers = peers.iter();
    // Each phase has its own heap allocation: tens of thousands of requests may wait for their heads, and the state of
    // connecting must be freed by then.
    let connecting = dial::connect(&upstreams.connector, &upstreams.pool, &mut peers, purpose, timeouts.connect);
    let connected = Box::pin(connecting).await?;
    let (peer, reused) = (connected.peer.clone(), connected.reused);
    match Box::pin(exchange_with(session, connected, request, has_body, is_stream, timeouts, body_limit)).await {
        Err((Failure::Broken { .. }, false)) if reused => {
            let fresh = dial::connect_new(&upstreams.connector, &peer, purpose, timeouts.connect);
            let connected = match Box::pin(fresh).await {
                Ok(connected) => connected,
                // The other servers have not been tried.
                Err(_) if peers.len() > 0 => {
                    let purpose = Purpose::Page { idle: false };
                    let connecting =
                        dial::connect(&upstreams.connector, &upstreams.pool, &mut peers, purpose, timeouts.connect);
                    Box::pin(connecting).await?
                }
                Err(failure) => return Err(failure),
            };
            let exchanging = exchange_with(session, connected, request, has_body, is_stream, timeouts, body_limit);
            Box::pin(exchanging).await.map_err(|(failure, _)| failure)
        }
        answer => answer.map_err(|(failure, _)| failure),
    }
}

/// Sends the request and reads up to the final response head. A failure carries whether the upstream had sent anything.
async fn exchange_with(
    session: &mut Session,
    connected: Connected,
    request: &RequestHeader,
    has_body: bool,
    is_stream: bool,
    timeouts: &Timeouts,
    body_limit: Option<Duration>,
) -> Result<Answer, (Failure, bool)> {
    let expected = upload::expects_continue(session.req_header());
    let is_head = session.req_header().method == pingora::http::Method::HEAD;
    let mut exchange = Exchange {
        takes_interim: session.req_header().version >= Version::HTTP_11,
        client: Client::new(session),
        connection: connected.connection,
        upload: Upload::new(request, has_body, expected, body_limit).map_err(|failure| (failure, false))?,
        reader: HeadReader::default(),
        refused: None,
        upstream_timer: WaitTimer::new(),
        write_timer: WaitTimer::new(),
        steps: 0,
        writing: false,
        timeouts,
    };
    let head = poll_fn(|cx| exchange.poll_head(cx)).await;
    let head = head.map_err(|failure| (failure, !exchange.reader.is_untouched()))?;
    let Exchange { connection, upload, reader, .. } = exchange;
    let peer = &connected.peer;
    let body_start = BodyStart::of(&head, reader, is_head, is_stream).map_err(|failure| (failure, true))?;
    let server = peer.address().as_inet().copied();
    // A stream's request asks for its connection to be closed.
    let key = (!is_stream).then(|| peer.reuse_hash());
    Ok(Answer { head, body_start, connection, upload, server, key })
}

/// A request and its response heads, which may overlap: an upstream may respond before it has read the whole request.
struct Exchange<'s, 't> {
    client: Client<'s>,
    /// HTTP/1.0 does not know interim responses (RFC 9110 §15.2).
    takes_interim: bool,
    connection: UpstreamConnection,
    upload: Upload,
    reader: HeadReader,
    /// Why the upstream reads no more of the request. If it has sent a response, that response counts.
    refused: Option<Failure>,
    /// Measures the wait for the upstream, or for the client's body.
    upstream_timer: WaitTimer,
    /// Measures the write of interim responses to the client.
    write_timer: WaitTimer,
    /// The upload's steps when `upstream_timer` was restarted.
    steps: u64,
    /// Whether an interim response is not yet written.
    writing: bool,
    timeouts: &'t Timeouts,
}

impl Exchange<'_, '_> {
    /// Ready with the final head. `timeouts.first_byte` runs while the upstream has to read the request or to respond;
    /// pipelined bytes of the client do not restart it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>, Failure>> {
        if let Some(head) = self.poll_work(cx)? {
            return Poll::Ready(Ok(head));
        }
        if self.upload.steps() != self.steps {
            self.steps = self.upload.steps();
            self.upstream_timer.restart();
        }
        if self.writing
            && let Poll::Ready(limit) = self.write_timer.poll(cx, self.timeouts.write)
        {
            return Poll::Ready(Err(Failure::WriteTimeout { limit }));
        }
        self.upstream_timer.poll(cx, self.limit()).map(|limit| Err(self.overdue(limit)))
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Result<Option<Box<ResponseHeader>>, Failure> {
        match self.upload.poll(cx, &mut self.client, &mut self.connection) {
            Ok(()) => {}
            Err(failure @ Failure::Broken { .. }) => {
                self.upload.abandon();
                self.refused = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
        if self.upload.is_over()
            && self.refused.is_none()
            && let Poll::Ready(source) = self.client.poll_closed(cx)
        {
            return Err(Failure::ClientGone { source });
        }
        loop {
            let flushed = self.client.poll_flush(cx).map_err(|source| Failure::ClientGone { source })?;
            if self.writing != flushed.is_pending() {
                self.writing = flushed.is_pending();
                self.write_timer.restart();
            }
            if self.writing {
                return Ok(None);
            }
            let head = match self.reader.poll_next(cx, &mut self.connection) {
                Poll::Pending => return Ok(None),
                Poll::Ready(Ok(head)) => head,
                // The write error says more than the close that followed it.
                Poll::Ready(Err(source)) => return Err(self.refused.take().unwrap_or(Failure::Broken { source })),
            };
            match HeadKind::of(&head) {
                HeadKind::Continue => {}
                HeadKind::Switching => return Err(Failure::Switched),
                HeadKind::Final => return Ok(Some(head)),
                HeadKind::Interim if self.takes_interim && !self.client.is_http2() => {
                    let mut head = head;
                    headers::interim_response(&mut head);
                    self.client.send_head(head, false).map_err(|source| Failure::ClientGone { source })?;
                }
                HeadKind::Interim => {}
            }
            // A series of interim responses must not postpone the check of the deadline.
            if let Some(limit) = self.limit()
                && self.upstream_timer.is_over(limit)
            {
                return Err(self.overdue(limit));
            }
        }
    }

    /// The limit that applies now: on the client's body, or on the upstream's response.
    fn limit(&self) -> Option<Duration> {
        match self.upload.waits_for() {
            WaitsFor::Client => self.upload.silence_limit(),
            WaitsFor::Upstream | WaitsFor::Nothing => self.timeouts.first_byte,
        }
    }

    fn overdue(&self, limit: Duration) -> Failure {
        if self.upload.waits_for() == WaitsFor::Client {
            let source = Error::explain(ErrorType::ReadTimedout, format!("no byte arrived within {limit:?}"));
            return Failure::RequestTimeout { source };
        }
        Failure::FirstByteTimeout { limit }
    }
}

/// Measures how long a wait has lasted.
pub(super) struct WaitTimer {
    since: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl WaitTimer {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), sleep: None }
    }

    /// Starts the wait anew.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    pub(super) fn is_over(&self, limit: Duration) -> bool {
        self.since.elapsed() >= limit
    }

    /// Ready with the limit once the wait has lasted that long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>) -> Poll<Duration> {
        let Some(limit) = limit else { return Poll::Pending };
        let Some(due) = self.since.checked_add(limit) else { return Poll::Pending };
        let due = tokio::time::Instant::from_std(due);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx).map(|()| limit)
    }
}
