//! The client of a request that Pingora has read, while its request and its response are both in progress.
//!
//! One session value reads and writes. So that neither direction blocks the other, everything here is polled: each call
//! makes the progress that is possible now and registers the waker for more.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, OrErr};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::proxy::Session;

use super::client_connection::ClientConnection;
use super::hang_up::HangUp;
use crate::driver::{PendingReset, Socket, bound_page_queue, bound_send_queue, poll_send, reset_stream};
use crate::sys;

/// The client side of a request whose head has been read.
pub(super) struct Client<'s> {
    session: &'s mut Session,
    /// The response's body over HTTP/2, once its head is written.
    body: Option<Http2Body>,
    /// A reset over HTTP/2 that waits to be sent.
    pending_reset: Option<Box<PendingReset>>,
    /// Watches for the end of a connection whose request is not read.
    hang_up: Option<HangUp>,
    ended: bool,
    broken: bool,
}

impl<'s> Client<'s> {
    pub(super) fn new(session: &'s mut Session) -> Self {
        Self { session, body: None, pending_reset: None, hang_up: None, ended: false, broken: false }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.session.as_http2().is_some()
    }

    /// The next piece of the request's body; `None` after the last.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Box<Error>>> {
        pin!(self.session.downstream_session.read_request_body()).poll(cx)
    }

    /// Ready once the client has closed the connection, or aborted its request, whether or not the request's body has
    /// been read.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        if let Some(body) = &mut self.body {
            return body
                .stream
                .poll_reset(cx)
                .map(|_| Error::explain(ErrorType::ConnectionClosed, "the stream was reset"));
        }
        if self.session.as_http1().is_some() && !self.session.downstream_session.is_body_done() {
            // The session would take the rest of the body for a pipelined request.
            let session = &*self.session;
            let hang_up = self.hang_up.get_or_insert_with(|| HangUp::watch(session.stream()));
            return hang_up
                .poll(cx)
                .map(|()| Error::explain(ErrorType::ConnectionClosed, "within the request's body").into_down());
        }
        self.hang_up = None;
        match ready!(pin!(self.session.downstream_session.read_body_or_idle(true)).poll(cx)) {
            Err(error) => Poll::Ready(error.into_down()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Queues a response head. Drops interim heads for HTTP/2 clients: Pingora's session cannot send them.
    pub(super) fn send_head(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<(), Box<Error>> {
        let interim = head.status.is_informational();
        match &mut *self.session.downstream_session {
            ServerSession::H1(session) => session.send_proxy_task(HttpTask::Header(head, end)),
            ServerSession::H2(session) if !interim => {
                session.write_response_header(head, end).map_err(|error| error.into_down())?;
                self.body = session.take_response_body_writer().map(|stream| Http2Body { stream, ended: end });
            }
            _ => {}
        }
        self.ended |= end;
        Ok(())
    }

    /// Ready once everything queued has been written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Box<Error>>> {
        match &mut *self.session.downstream_session {
            ServerSession::H1(session) if session.has_pending_proxy_tasks() => {
                pin!(session.write_proxy_tasks()).poll(cx).map_ok(|_| ()).map_err(|error| error.into_down())
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Writes what can be written of `bytes` and leaves the rest in it. Ready once something was written; over HTTP/1
    /// that is all of it, and its end may still be queued.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<Result<(), Box<Error>>> {
        ready!(self.poll_flush(cx))?;
        if let Some(body) = &mut self.body {
            let sent = ready!(poll_send(&mut body.stream, cx, bytes));
            let count =
                sent.or_err(ErrorType::WriteError, "writing the response").map_err(|error| error.into_down())?;
            let _ = bytes.split_to(count);
            return Poll::Ready(Ok(()));
        }
        let piece = std::mem::take(bytes);
        if let ServerSession::H1(session) = &mut *self.session.downstream_session {
            session.send_proxy_task(HttpTask::Body(Some(piece), false));
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ready once something can be written, as far as that is known before.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(body) = &mut self.body {
            body.stream.reserve_capacity(1);
            return match body.stream.capacity() {
                // An error is for the write to report.
                0 => body.stream.poll_capacity(cx).map(|_| ()),
                _ => Poll::Ready(()),
            };
        }
        match self.session.stream().and_then(|stream| stream.as_any().downcast_ref::<ClientConnection>()) {
            Some(connection) => connection.poll_writable(cx),
            None => Poll::Ready(()),
        }
    }

    /// Passes a piece of the body through the downstream modules; `end` marks the last.
    pub(super) fn filter_body(&mut self, piece: Bytes, end: bool) -> Bytes {
        let mut body = (!piece.is_empty()).then_some(piece);
        match self.session.downstream_modules_ctx.response_body_filter(&mut body, end) {
            Ok(()) => {}
            Err(error) => log::warn!("downstream module failed: side=internal: {error}"),
        }
        body.unwrap_or_default()
    }

    /// Ends the response in order. Ready once all of it has been written.
    pub(super) fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        trailers: Option<HeaderMap>,
    ) -> Poll<Result<(), Box<Error>>> {
        if !self.ended {
            ready!(self.poll_flush(cx))?;
            self.ended = true;
            if let Some(body) = &mut self.body {
                body.ended = true;
                let sent = match trailers {
                    Some(trailers) => body.stream.send_trailers(trailers),
                    None => body.stream.send_data(Bytes::new(), true),
                };
                sent.or_err(ErrorType::WriteError, "ending the response").map_err(|error| error.into_down())?;
            } else if let ServerSession::H1(session) = &mut *self.session.downstream_session {
                session.send_proxy_task(HttpTask::Done);
            }
        }
        self.poll_flush(cx)
    }

    /// Ends the response so that the client sees it as incomplete. Ready once the bytes before have been sent. The
    /// connection must be closed afterwards.
    pub(super) fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.broken = true;
        let Some(body) = &mut self.body else {
            // If the flush fails, the response is incomplete in any case. If the head announced that the connection
            // closes, or the body ends with the connection, only a reset distinguishes a broken end.
            let _ = ready!(self.poll_flush(cx));
            if self.session.get_keepalive().is_none() {
                self.reset();
            }
            return Poll::Ready(());
        };
        ready!(self.pending_reset.get_or_insert_with(|| PendingReset::send(&mut body.stream, cx.waker())).poll(cx));
        body.stream.send_reset(Reason::INTERNAL_ERROR);
        Poll::Ready(())
    }

    /// Resets the client's connection or stream at once.
    pub(super) fn reset(&mut self) {
        self.broken = true;
        match &mut self.body {
            Some(body) => body.stream.send_reset(Reason::INTERNAL_ERROR),
            None => {
                if let Some(stream) = self.session.stream() {
                    reset_stream(stream);
                }
            }
        }
    }

    /// Whether the response was ended as incomplete.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes that the client's kernel has acknowledged, on a connection that carries this response only.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        sys::acknowledged_bytes(self.session.stream()?.id())
    }

    /// Bounds the unsent bytes of a stream in the kernel.
    pub(super) fn bound_stream_queue(&self, limit: Option<Duration>) {
        if let Some(stream) = self.session.stream() {
            bound_send_queue(stream, limit);
        }
    }

    /// The same for a page.
    pub(super) fn bound_queue(&self, limit: Option<Duration>) {
        if let Some(stream) = self.session.stream() {
            bound_page_queue(stream, limit);
        }
    }
}

/// The body of a response over HTTP/2.
struct Http2Body {
    stream: SendStream<Bytes>,
    ended: bool,
}

impl Drop for Http2Body {
    /// A response that is dropped unfinished is incomplete. The library would reset it with CANCEL, which some clients take
    /// for a normal end.
    fn drop(&mut self) {
        if !self.ended {
            self.stream.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Adapts a client to non-blocking calls, for a stream that runs while its request is still being sent.
pub(super) struct ClientSocket<'a, 's, 'c> {
    pub(super) client: &'a mut Client<'s>,
    pub(super) cx: &'a mut Context<'c>,
    /// Whether nothing is being read of the request, so that the end of the connection has to be noticed here.
    pub(super) is_watched: bool,
}

fn or_would_block<T>(poll: Poll<Result<T, Box<Error>>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result.map_err(io::Error::other),
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Socket for ClientSocket<'_, '_, '_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.is_watched && self.client.poll_closed(self.cx).is_ready() {
            true => Ok(0),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn has_unread(&mut self) -> bool {
        false
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(self.client.poll_flush(self.cx))?;
        let mut piece = Bytes::copy_from_slice(bytes);
        or_would_block(self.client.poll_write(self.cx, &mut piece))?;
        Ok(bytes.len() - piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        or_would_block(self.client.poll_flush(self.cx))
    }

    fn shutdown(&mut self) -> io::Result<()> {
        or_would_block(self.client.poll_end(self.cx, None))
    }

    fn reset_on_close(&mut self, abandoned: bool) -> io::Result<()> {
        if abandoned {
            self.client.reset();
            return Ok(());
        }
        or_would_block(self.client.poll_abort(self.cx).map(Ok))
    }
}
