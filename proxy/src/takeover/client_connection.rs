//! A client's HTTP/1 connection, between its transport and Pingora's session.
//!
//! Pingora's session gets one request at a time: a head that has been checked, its body to the last byte, and then
//! nothing until the request has been served, however much the client has sent ahead. The session sees the end of the
//! connection as soon as the client closes it. The caller calls [`ClientConnection::next_head`] before each session.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora::protocols::{Stream, UniqueID};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::client_transport::{ClientTransport, LINGER, delegate_digests, linger};
use crate::driver::{Transport, with_read_buffer};
use crate::sys;
use crate::wire::refusal::Refusal;
use crate::wire::request::{HeadLimits, MAX_FIELDS, RequestHead};
use crate::wire::request_body::RequestBody;

/// Limit on the bytes that are buffered of what a client pipelines while its request is served. The rest stays in the
/// kernel.
pub(crate) const MAX_PIPELINED_BYTES: usize = 64 * 1024;

/// How often the kernel is polled for the end of a connection that is not read any more.
const END_POLL: Duration = Duration::from_secs(1);

/// A client's connection over HTTP/1.
pub(crate) struct ClientConnection {
    /// `None` once the transport has been detached.
    transport: Option<ClientTransport>,
    /// The bytes received, and how many of them have been passed on.
    received: Vec<u8>,
    consumed: usize,
    phase: Phase,
    upgrade: Upgrade,
    /// Runs while the buffer for pipelined bytes is full, when the end of the connection cannot be read.
    end_poll: Option<Pin<Box<Sleep>>>,
    /// Whether a response has been written that the client should be able to read.
    answered: bool,
    extension: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What Pingora's session may read.
#[derive(Debug)]
enum Phase {
    /// No head has been read; nothing is passed on.
    Idle,
    /// A request: the remaining bytes of its head, then its body.
    Request { head: usize, body: RequestBody },
    /// The request has been passed on and is being served.
    Served,
}

/// Whether the connection changes to another protocol with the current request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    No,
    /// The request offers it, and has no final response yet. What follows belongs to the other protocol or is the next
    /// request, so it waits.
    Offered,
    /// The response has accepted: everything is passed on.
    Accepted,
}

/// The result of [`ClientConnection::next_head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHead {
    /// A request is ready to be read; `dropped_fields` of its fields were left out.
    Ready { dropped_fields: usize },
    /// The client closed the connection before a head was complete.
    Closed,
    /// The request must not be served.
    Refused(Refusal),
}

impl ClientConnection {
    /// A plain connection, of which `received` has been read. `extension` is for the handler of its first request.
    pub(crate) fn tcp(
        received: Vec<u8>,
        socket: TcpStream,
        address: SocketAddr,
        extension: Option<Box<dyn Any + Send>>,
    ) -> Self {
        Self::new(received, ClientTransport::tcp(socket, address), extension)
    }

    /// A connection that Pingora accepted.
    pub(crate) fn over(stream: Stream) -> Self {
        Self::new(Vec::new(), ClientTransport::Pingora(stream), None)
    }

    fn new(received: Vec<u8>, transport: ClientTransport, extension: Option<Box<dyn Any + Send>>) -> Self {
        let (transport, extension) = (Some(transport), Mutex::new(extension));
        Self {
            transport,
            received,
            consumed: 0,
            phase: Phase::Idle,
            upgrade: Upgrade::No,
            end_poll: None,
            answered: false,
            extension,
        }
    }

    /// Takes what was passed along for the handler of the first request; `None` after the first call.
    pub(crate) fn take_extension(&self) -> Option<Box<dyn Any + Send>> {
        self.extension.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The bytes received and not yet passed on.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received[self.consumed..]
    }

    /// Whether the client has begun a request. Empty lines do not count (RFC 9112 §2.2).
    pub(crate) fn has_begun(&self) -> bool {
        self.received().iter().any(|byte| !b"\r\n".contains(byte))
    }

    /// Receives more of what the client sends; 0 at the end of the connection. Cancel safe.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) async fn receive(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(transport) = &mut self.transport else { return Poll::Ready(Err(detached())) };
        let received = &mut self.received;
        with_read_buffer(|input| {
            let mut buffer = ReadBuf::new(input);
            ready!(Pin::new(transport).poll_read(cx, &mut buffer))?;
            received.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Waits until the next request's head is complete, and makes it ready for the next session to read. Cancel safe.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) async fn next_head(&mut self, limits: &HeadLimits) -> io::Result<NextHead> {
        if self.is_receiving() {
            // The last request has not been read completely, so the start of the next is unknown.
            return Ok(NextHead::Closed);
        }
        self.phase = Phase::Idle;
        self.end_poll = None;
        loop {
            match self.take_head(limits) {
                Ok(Some(dropped_fields)) => return Ok(NextHead::Ready { dropped_fields }),
                Ok(None) => {}
                Err(refusal) => return Ok(NextHead::Refused(refusal)),
            }
            if self.receive().await? == 0 {
                return Ok(NextHead::Closed);
            }
        }
    }

    /// Whether the current request has not been received and read completely.
    fn is_receiving(&self) -> bool {
        matches!(&self.phase, Phase::Request { head, body, .. } if *head > 0 || !body.is_done())
    }

    /// Starts the request whose head is at the front of the buffer, if the head is complete. Returns how many of its
    /// fields were left out.
    fn take_head(&mut self, limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let Some(head) = RequestHead::parse(&self.received[self.consumed..], limits, &mut fields)? else {
            return Ok(None);
        };
        let (length, body) = (head.length, RequestBody::new(head.body));
        let dropped_fields = head.dropped_fields;
        self.upgrade = if head.offers_upgrade { Upgrade::Offered } else { Upgrade::No };
        let changed = (!head.is_unchanged()).then(|| {
            let mut changed = Vec::with_capacity(length);
            head.write(&mut changed);
            changed
        });
        let head = match changed {
            Some(changed) => {
                let head = changed.len();
                self.received.splice(..self.consumed + length, changed);
                self.consumed = 0;
                head
            }
            None => length,
        };
        self.phase = Phase::Request { head, body };
        Ok(Some(dropped_fields))
    }

    /// Responds with the refusal, lets the client read the response, and closes.
    pub(crate) async fn refuse(mut self, refusal: Refusal) {
        let Some(mut transport) = self.transport.take() else { return };
        let written = async {
            transport.write_all(&refusal.response()).await?;
            transport.flush().await
        };
        if matches!(timeout(LINGER, written).await, Ok(Ok(()))) {
            linger(transport).await;
        }
    }

    /// Closes an idle connection in order; over TLS this sends `close_notify`.
    pub(crate) async fn close(mut self) {
        if let Some(mut transport) = self.transport.take() {
            let _ = timeout(LINGER, transport.shutdown()).await;
        }
    }

    /// The bytes received and not yet passed on, and the transport; `None` once the transport has been detached.
    pub(crate) fn into_parts(mut self) -> Option<(Vec<u8>, ClientTransport)> {
        let (mut received, consumed) = (std::mem::take(&mut self.received), std::mem::take(&mut self.consumed));
        received.drain(..consumed);
        Some((received, self.transport.take()?))
    }

    /// Takes the transport of `stream`, a connection of a client's session, for a driver. Bytes buffered in the session are
    /// lost.
    ///
    /// # Errors
    /// When the transport cannot be taken from the runtime, or the descriptor limit is reached.
    pub(super) fn detach(stream: Stream) -> io::Result<Transport> {
        if !stream.as_any().is::<Self>() {
            return Transport::bare(stream);
        }
        let Ok(connection) = stream.into_any().downcast::<Self>() else { return Err(detached()) };
        match connection.into_parts() {
            Some((_, ClientTransport::Tcp { socket, .. })) => Ok(Transport::Tcp(socket.into_std()?)),
            Some((_, ClientTransport::Pingora(stream))) => Transport::bare(stream),
            None => Err(detached()),
        }
    }

    /// Ready once the kernel has room for a write, as far as that is known before the write: always, except for a plain
    /// socket.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ClientTransport::Tcp { socket, .. }) = &self.transport else { return Poll::Ready(()) };
        let check =
            || if sys::is_writable(socket.as_raw_fd()) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        // The runtime knows only what the last write has seen.
        while socket.try_io(Interest::WRITABLE, check).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            // A failed connection is for the write to report.
            let _ = ready!(socket.poll_write_ready(cx));
        }
        Poll::Ready(())
    }

    /// The transport below the connection.
    pub(crate) fn transport(&self) -> Option<&ClientTransport> {
        self.transport.as_ref()
    }

    /// Copies buffered bytes into `buffer`, at most `limit`.
    fn copy_out(&mut self, buffer: &mut ReadBuf<'_>, limit: usize) -> usize {
        let count = limit.min(buffer.remaining()).min(self.received.len() - self.consumed);
        buffer.put_slice(&self.received[self.consumed..self.consumed + count]);
        self.consumed += count;
        if self.consumed == self.received.len() {
            // An idle connection keeps no buffer.
            (self.received, self.consumed) = (Vec::new(), 0);
        }
        count
    }

    /// Learns from a response head whether the connection changes to another protocol. Heads are written whole.
    fn record_write(&mut self, bytes: &[u8], cx: &Context<'_>) {
        self.answered = true;
        if self.upgrade != Upgrade::Offered || !bytes.starts_with(b"HTTP/1.") {
            return;
        }
        match bytes.get(9..12) {
            Some(b"101") => {
                self.upgrade = Upgrade::Accepted;
                // A read may wait for the end of the connection.
                cx.waker().wake_by_ref();
            }
            Some([b'1', ..]) => {}
            _ => self.upgrade = Upgrade::No,
        }
    }

    /// Reads more of the body; whatever follows it stays in the buffer.
    fn poll_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Phase::Request { body, .. } = &mut self.phase else { return Poll::Ready(Ok(())) };
        let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if self.consumed < self.received.len() {
            let room = buffer.remaining().min(self.received.len() - self.consumed);
            let count = body.take(&self.received[self.consumed..self.consumed + room]).map_err(broken)?;
            self.copy_out(buffer, count);
            return Poll::Ready(Ok(()));
        }
        let Some(transport) = &mut self.transport else { return Poll::Ready(Err(detached())) };
        let start = buffer.filled().len();
        ready!(Pin::new(transport).poll_read(cx, buffer))?;
        let count = body.take(&buffer.filled()[start..]).map_err(broken)?;
        self.received.extend_from_slice(&buffer.filled()[start + count..]);
        buffer.set_filled(start + count);
        Poll::Ready(Ok(()))
    }

    /// Ready once the client has closed the connection. Buffers what the client pipelines, up to the limit.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.received.len() - self.consumed < MAX_PIPELINED_BYTES {
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            let Some(transport) = &self.transport else { return Poll::Ready(Err(detached())) };
            if sys::peer_has_closed(transport.id()) {
                return Poll::Ready(Ok(()));
            }
            let timer = self.end_poll.get_or_insert_with(|| Box::pin(sleep(END_POLL)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + END_POLL);
        }
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.phase {
                Phase::Request { head, .. } if *head > 0 => {
                    let limit = *head;
                    let count = this.copy_out(buffer, limit);
                    if let Phase::Request { head, .. } = &mut this.phase {
                        *head -= count;
                    }
                    return Poll::Ready(Ok(()));
                }
                Phase::Request { body, .. } if body.is_done() => this.phase = Phase::Served,
                Phase::Request { .. } => return this.poll_body(cx, buffer),
                Phase::Served if this.upgrade == Upgrade::Accepted => {
                    if this.received.len() > this.consumed {
                        this.copy_out(buffer, usize::MAX);
                        return Poll::Ready(Ok(()));
                    }
                    let Some(transport) = &mut this.transport else { return Poll::Ready(Err(detached())) };
                    return Pin::new(transport).poll_read(cx, buffer);
                }
                Phase::Idle | Phase::Served => return this.poll_end(cx),
            }
        }
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.record_write(bytes, cx);
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_write(cx, bytes),
            None => Poll::Ready(Err(detached())),
        }
    }

    // Without this, HTTP/2 writes the header and the payload of a larger frame separately.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.record_write(slices.first().map_or(&[], |slice| &**slice), cx);
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_write_vectored(cx, slices),
            None => Poll::Ready(Err(detached())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_flush(cx),
            None => Poll::Ready(Err(detached())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for ClientConnection {
    /// Lingers if the client has sent, or may be sending, what is not read.
    fn drop(&mut self) {
        let unread = self.is_receiving() || self.received.len() > self.consumed;
        if let (Some(transport), Ok(runtime)) = (self.transport.take(), tokio::runtime::Handle::try_current())
            && self.answered
            && (unread || !sys::is_silent(transport.id()))
            && !sys::resets_on_close(transport.id())
        {
            runtime.spawn(linger(transport));
        }
    }
}

delegate_digests!(ClientConnection);

impl fmt::Debug for ClientConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientConnection").field("transport", &self.transport).finish_non_exhaustive()
    }
}

fn detached() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the transport has been detached")
}
