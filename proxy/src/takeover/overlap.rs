//! An event stream that starts before its request has been sent completely.
//!
//! The session still reads the request, since it knows the framing. So the stream stays in the session until it ends,
//! under the same rules as every other stream.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora::prelude::Result;
use pingora::proxy::Session;

use super::client::{Client, ClientSocket};
use super::connection::{UpstreamConnection, UpstreamSocket};
use super::control::opening;
use super::exchange::{Answer, WaitTimer};
use super::hand_over::finish_head;
use super::hooks::Hooks;
use super::linger;
use super::stand_in::stand_in;
use super::upload::{Upload, WaitsFor};
use crate::driver::{Attached, Drivers, Route, Start, StreamInfo};
use crate::exchange::stream_framing;
use crate::failure::Failure;
use crate::stream::Framing;

/// Runs the stream to its end. Returns a failure if the client has closed the connection before the head.
///
/// # Errors
/// When a hook or a downstream module fails.
pub(super) async fn run(
    session: &mut Session,
    answer: Answer,
    route: Arc<Route>,
    drivers: &Drivers,
    info: StreamInfo,
    hooks: &dyn Hooks,
) -> Result<Option<Failure>> {
    let Answer { mut head, body_start, connection, upload, .. } = answer;
    let framing = stream_framing(session.req_header().version);
    // Over HTTP/1 the session adds the framing.
    let body_framing = if framing == Framing::Http2 { Framing::Http2 } else { Framing::Plain };
    let (opening, info) = opening(&route, body_framing, body_start.body, &head, info);
    finish_head(session, &mut head, framing, hooks, route.policy.heads.as_deref()).await?;

    let mut client = Client::new(session);
    client.bound_stream_queue(route.policy.timeouts.write);
    if let Err(source) = client.send_head(head, false) {
        return Ok(Some(Failure::ClientGone { source }));
    }
    let start = Start { opening, unsent: Vec::new(), leftover: body_start.leftover, route, info };
    let mut stream = Attached::begin(start, drivers.registry().clone());
    let mut request = Request { upload, read: false, timer: WaitTimer::new(), steps: 0 };
    let mut connection = Some(connection);
    poll_fn(|cx| {
        request.poll(cx, &mut client, &mut connection, &mut stream);
        // The same waker for both; each context needs its own borrow.
        let waker = cx.waker().clone();
        let [mut first, mut second] = [(); 2].map(|()| Context::from_waker(&waker));
        let mut upstream = connection.as_mut().map(|connection| UpstreamSocket { connection, cx: &mut first });
        let is_watched = request.read || request.upload.waits_for() == WaitsFor::Upstream;
        let mut downstream = ClientSocket { client: &mut client, cx: &mut second, is_watched };
        let ended = stream.poll(cx, &mut downstream, &mut upstream);
        if upstream.is_none() {
            connection = None;
        }
        ended
    })
    .await;

    if client.is_broken() {
        if !client.is_http2() {
            client.reset();
        }
        // Nothing more may be written to the client, not even the end of the body.
        let Some(response) = session.response_written().cloned() else { return Ok(None) };
        let stand_in = stand_in(&session.downstream_session, Box::new(response)).await?;
        *session.downstream_session = stand_in;
    } else if !request.read {
        linger::linger(session).await;
    }
    Ok(None)
}

/// What is left of the request.
struct Request {
    upload: Upload,
    /// Whether it has been read from the client completely, or as far as it is read at all.
    read: bool,
    timer: WaitTimer,
    /// The upload's steps when the timer was restarted.
    steps: u64,
}

impl Request {
    /// Forwards what is available. Reads and discards what the upstream no longer reads: left unread, it could keep the
    /// client from reading its stream.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<'_>,
        connection: &mut Option<UpstreamConnection>,
        stream: &mut Attached,
    ) {
        if self.read {
            return;
        }
        let moved = match connection {
            Some(connection) => self.upload.poll(cx, client, connection),
            None => Err(Failure::NoServer),
        };
        match moved {
            Ok(()) => {}
            Err(Failure::Broken { .. } | Failure::NoServer) => self.upload.abandon(),
            Err(Failure::ClientGone { .. }) => return self.give_up(Attached::client_gone, stream),
            Err(_) => return self.give_up(Attached::request_failed, stream),
        }
        if self.upload.is_done() {
            self.read = true;
            return;
        }
        if self.upload.is_over() {
            match client.poll_body(cx) {
                Poll::Ready(Ok(Some(_))) => cx.waker().wake_by_ref(),
                Poll::Ready(Ok(None)) => self.read = true,
                Poll::Ready(Err(_)) => self.give_up(Attached::client_gone, stream),
                Poll::Pending => {}
            }
            return;
        }
        if self.upload.steps() != self.steps {
            self.steps = self.upload.steps();
            self.timer.restart();
        }
        let limit = self.upload.silence_limit().filter(|_| self.upload.waits_for() == WaitsFor::Client);
        if self.timer.poll(cx, limit).is_ready() {
            self.give_up(Attached::request_failed, stream);
        }
    }

    fn give_up(&mut self, report: fn(&mut Attached), stream: &mut Attached) {
        self.upload.abandon();
        self.read = true;
        report(stream);
    }
}
