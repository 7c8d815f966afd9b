//! Exchanges a request that Pingora has read for a response head, in a task.
//!
//! [`Exchange`] decides; this module connects, moves bytes and waits. The reactor's counterpart is [`super::pending`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pingora::connectors::TransportConnector;
use pingora::http::{Method, RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::proxy::Session;
use pingora::upstreams::peer::Peer;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, timeout_at};

use super::client::Client;
use super::connection::UpstreamConnection;
use super::dial::{self, Purpose};
use super::pool::Pool;
use super::upload::Upload;
use crate::driver::clock;
use crate::exchange::{Action, BodyStart, Exchange, Rules, expects_continue, takes_interim};
use crate::failure::Failure;
use crate::headers;
use crate::stream::Policy;

/// Size of one read of a response head, in bytes.
const READ_BYTES: usize = 4 * 1024;

/// Interim responses in one poll, before the task yields.
const HEADS_PER_POLL: u32 = 16;

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

/// One of the servers of a request.
struct Server<'p>(&'p HttpPeer);

impl fmt::Display for Server<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.address().fmt(formatter)
    }
}

/// Sends `request` to the first of `peers` that can be connected to.
///
/// # Errors
/// When there is no response.
pub(super) async fn exchange(
    upstreams: &Upstreams,
    session: &mut Session,
    peers: &[HttpPeer],
    request: &RequestHeader,
    is_stream: bool,
    policy: &Arc<Policy>,
    body_limit: Option<Duration>,
) -> Result<Answer, Failure> {
    let has_body = !session.is_body_empty();
    let downstream = session.req_header();
    let rules = Rules {
        policy: policy.clone(),
        may_be_stream: is_stream,
        is_head: downstream.method == Method::HEAD,
        takes_interim: takes_interim(downstream.version),
        is_repeatable: !is_stream && headers::is_repeatable(request, has_body),
    };
    let purpose = if is_stream { Purpose::Stream } else { Purpose::Page };
    let upload = Upload::new(request, has_body, expects_continue(downstream), body_limit)?;
    let mut exchange = Exchange::new(rules, peers.iter().map(Server).collect(), upload);
    let mut connection = None;
    let mut action = exchange.next(clock::now());
    loop {
        // Each phase has its own heap allocation: tens of thousands of requests may wait for their heads, and the state
        // of connecting must be freed by then.
        action = match (action, connection.take()) {
            (Action::Connect { reuse }, _) => {
                let (connected, next) = Box::pin(connect(upstreams, &mut exchange, purpose, reuse)).await;
                connection = connected;
                next
            }
            (Action::Stream(head, body_start), Some(connection)) => {
                let server = server_address(&exchange);
                let upload = exchange.into_upload();
                // A stream's request asks for its connection to be closed.
                return Ok(Answer { head, body_start, connection, upload, server, key: None });
            }
            (Action::Page(head), Some(connection)) => {
                let server = server_address(&exchange);
                let key = exchange.server().filter(|_| !is_stream).map(|Server(peer)| peer.reuse_hash());
                let (body_start, upload) = exchange.page(&head)?;
                return Ok(Answer { head, body_start, connection, upload, server, key });
            }
            (Action::Fail(failure), _) => return Err(failure),
            (_, Some(mut open)) => {
                let next = Box::pin(transfer(session, &mut exchange, &mut open)).await;
                connection = Some(open);
                next
            }
            (_, None) => return Err(Failure::NoServer),
        }
    }
}

fn server_address(exchange: &Exchange<Server<'_>>) -> Option<SocketAddr> {
    exchange.server().and_then(|Server(peer)| peer.address().as_inet().copied())
}

/// Connects to the exchange's server. Returns what is next.
async fn connect(
    upstreams: &Upstreams,
    exchange: &mut Exchange<Server<'_>>,
    purpose: Purpose,
    reuse: bool,
) -> (Option<UpstreamConnection>, Action) {
    let Some(&Server(peer)) = exchange.server() else { return (None, Action::Fail(Failure::NoServer)) };
    if reuse && let Some(connection) = upstreams.pool.take(peer.reuse_hash()).await {
        exchange.connected(true, clock::now());
        return (Some(connection), exchange.next(clock::now()));
    }
    let dialing = dial::connect(&upstreams.connector, peer, purpose, exchange.policy());
    let due = exchange.deadline();
    let dialed = match due {
        Some(due) => timeout_at(clock::instant(due), dialing).await.ok(),
        None => Some(dialing.await),
    };
    let now = clock::now();
    match dialed {
        Some(Ok(connection)) => {
            exchange.connected(false, now);
            (Some(connection), exchange.next(now))
        }
        Some(Err(source)) => {
            exchange.connect_failed(source);
            (None, exchange.next(now))
        }
        None => (None, exchange.next(due.map_or(now, |due| due.max(now)))),
    }
}

/// Sends the request and reads up to the final response head, which may overlap: an upstream may respond before it has
/// read the whole request.
async fn transfer(
    session: &mut Session,
    exchange: &mut Exchange<Server<'_>>,
    connection: &mut UpstreamConnection,
) -> Action {
    let mut transfer = Transfer { client: Client::new(session), exchange, connection, timer: None };
    poll_fn(|cx| transfer.poll(cx)).await
}

struct Transfer<'a, 's, 'p> {
    client: Client<'s>,
    exchange: &'a mut Exchange<Server<'p>>,
    connection: &'a mut UpstreamConnection,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Transfer<'_, '_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        match self.drive(cx) {
            Action::Wait => {}
            action => return Poll::Ready(action),
        }
        if let Some(due) = self.exchange.deadline() {
            let due = clock::instant(due);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Makes all progress that is possible now.
    fn drive(&mut self, cx: &mut Context<'_>) -> Action {
        let uploaded = self.exchange.upload().poll(cx, &mut self.client, self.connection);
        if let Err(failure) = uploaded {
            self.exchange.upload_failed(failure);
        }
        self.exchange.uploaded(clock::now());
        if self.exchange.watches_client()
            && let Poll::Ready(source) = self.client.poll_closed(cx)
        {
            self.exchange.client_gone(source);
        }
        let mut heads = 0;
        while heads < HEADS_PER_POLL {
            let now = clock::now();
            match self.client.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.exchange.interim_written(),
                Poll::Ready(Err(source)) => self.exchange.client_gone(source),
                Poll::Pending => self.exchange.interim_blocked(false, now),
            }
            match self.exchange.next(now) {
                Action::Read if self.read(cx).is_pending() => return self.exchange.read_blocked(now),
                Action::Read => {}
                Action::Forward(head) => {
                    heads += 1;
                    if let Err(source) = self.client.send_head(head, false) {
                        self.exchange.client_gone(source);
                    }
                }
                action => return action,
            }
        }
        cx.waker().wake_by_ref();
        Action::Wait
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        Pin::new(&mut *self.connection).poll_read(cx, &mut buffer).map(|read| match read {
            Ok(()) if buffer.filled().is_empty() => self.exchange.closed(),
            Ok(()) => self.exchange.received(buffer.filled()),
            Err(error) => self.exchange.read_failed(error),
        })
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
