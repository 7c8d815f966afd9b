//! The task driver: one small tokio task per stream, for any transport.
//!
//! A future written by hand, because what a compiler-made one keeps across its waits is several times this size.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use pin_project_lite::pin_project;
use pingora::protocols::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::drive::{ActiveStream, DriveOutcome};
use super::socket::{Socket, has_readable_bytes, reset};
use super::transport::Transport;
use super::{clock, scratch};
use crate::stream::Millis;
use crate::sys;

/// Stands for no deadline: further away than any process lives, near enough for the timer wheel.
pub(super) const NEVER: Millis = Millis(1 << 40);

/// For an HTTP/2 client to read what it has received, before it learns that no more comes.
const RESET_PAUSE: Duration = Duration::from_millis(500);

/// Runs a stream to its end on the current runtime.
///
/// # Errors
/// When a socket cannot be registered with the runtime.
pub(super) fn spawn(stream: ActiveStream, client: Transport, upstream: Transport) -> io::Result<()> {
    let timer_at = stream.core.next_deadline().unwrap_or(NEVER);
    let task = StreamTask {
        timer: tokio::time::sleep_until(clock::instant(timer_at)),
        timer_at,
        stream,
        client: AsyncTransport::new(client)?,
        upstream: Some(AsyncTransport::new(upstream)?),
    };
    tokio::spawn(task);
    Ok(())
}

pin_project! {
    struct StreamTask {
        #[pin]
        timer: Sleep,
        // What the timer is set to. Moved only when something is due earlier, or when it has fired: an event that puts
        // deadlines off costs nothing.
        timer_at: Millis,
        stream: ActiveStream,
        client: AsyncTransport,
        upstream: Option<AsyncTransport>,
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        this.stream.guard().register(cx.waker());
        let mut client = Polled { connection: this.client, cx };
        // The waker is the same for both sides; each needs a borrow of its own.
        let waker = client.cx.waker().clone();
        let mut second = Context::from_waker(&waker);
        let mut upstream = this.upstream.as_mut().map(|connection| Polled { connection, cx: &mut second });
        let next = scratch::with(|scratch| this.stream.drive(&mut client, &mut upstream, clock::now(), scratch));
        if upstream.is_none() {
            *this.upstream = None;
        }
        match next {
            DriveOutcome::Done => return Poll::Ready(()),
            DriveOutcome::Again => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            DriveOutcome::Wait => {}
        }
        loop {
            let due = this.stream.core.next_deadline().unwrap_or(NEVER);
            let next = due.coarse(clock::now());
            let fired = this.timer.as_mut().poll(cx).is_ready();
            if !fired && next >= *this.timer_at {
                return Poll::Pending;
            }
            if fired && due <= clock::now() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *this.timer_at = next;
            this.timer.as_mut().reset(clock::instant(next));
        }
    }
}

/// A transport on the runtime.
enum AsyncTransport {
    Tcp(TcpStream),
    Other(Stream),
    // Beside the body, the wait of one that breaks off.
    H2(SendStream<Bytes>, Option<Box<PendingReset>>),
}

impl AsyncTransport {
    fn new(transport: Transport) -> io::Result<Self> {
        Ok(match transport {
            Transport::Tcp(socket) => Self::Tcp(TcpStream::from_std(socket)?),
            Transport::Other(stream) => Self::Other(stream),
            Transport::H2(body) => Self::H2(body, None),
        })
    }
}

/// What a reset over HTTP/2 waits for. It drops what waits in the connection's queue, and clients drop what they have not
/// read when it comes: without this wait, the last events before a break are lost.
pub(crate) struct PendingReset {
    in_flight: Weak<()>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl PendingReset {
    /// Sends an empty piece, which the connection lets go of once it has taken it, and all before it, from its queue.
    pub(crate) fn send(body: &mut SendStream<Bytes>, stream: &Waker) -> Box<Self> {
        let in_flight = Arc::new(());
        let pending_reset = Self { in_flight: Arc::downgrade(&in_flight), pause: None };
        // Refused where the stream is over already: then it is gone at once.
        let _ = body.send_data(Bytes::from_owner(FlushMarker(Some(in_flight), stream.clone())), false);
        Box::new(pending_reset)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_flight.strong_count() > 0 {
            return Poll::Pending;
        }
        self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(RESET_PAUSE))).as_mut().poll(cx)
    }
}

/// Tells when it is gone: the pointers to it dangle, and its stream is woken.
struct FlushMarker(Option<Arc<()>>, Waker);

impl AsRef<[u8]> for FlushMarker {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

impl Drop for FlushMarker {
    fn drop(&mut self) {
        self.0 = None;
        self.1.wake_by_ref();
    }
}

/// A connection and who to wake when it is ready: polling, in the shape of non-blocking calls.
struct Polled<'a, 'b, 'c> {
    connection: &'a mut AsyncTransport,
    cx: &'b mut Context<'c>,
}

/// Hands over what the stream's window and its share of the send buffer take.
pub(crate) fn poll_send(body: &mut SendStream<Bytes>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    body.reserve_capacity(bytes.len());
    let mut room = body.capacity();
    while room == 0 {
        room = match body.poll_capacity(cx) {
            Poll::Ready(Some(Ok(room))) => room,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
            Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => return Poll::Pending,
        };
    }
    let count = room.min(bytes.len());
    let sent = body.send_data(Bytes::copy_from_slice(&bytes[..count]), false);
    Poll::Ready(sent.map(|()| count).map_err(io::Error::other))
}

fn ready<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Socket for Polled<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        ready(match self.connection {
            AsyncTransport::Tcp(socket) => Pin::new(socket).poll_read(self.cx, &mut buffer),
            AsyncTransport::Other(stream) => Pin::new(stream).poll_read(self.cx, &mut buffer),
            // Nothing is read from an HTTP/2 client; that it is gone is told by a reset.
            AsyncTransport::H2(body, _) => body.poll_reset(self.cx).map(|_| Err(io::ErrorKind::ConnectionReset.into())),
        })?;
        Ok(buffer.filled().len())
    }

    fn has_unread(&mut self) -> bool {
        match self.connection {
            AsyncTransport::Tcp(socket) => has_readable_bytes(SockRef::from(&*socket)),
            // TLS cannot be looked into without reading: it gets the benefit of the doubt, and other deadlines hold.
            AsyncTransport::Other(_) => true,
            AsyncTransport::H2(..) => false,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ready(match self.connection {
            AsyncTransport::Tcp(socket) => Pin::new(socket).poll_write(self.cx, bytes),
            AsyncTransport::Other(stream) => Pin::new(stream).poll_write(self.cx, bytes),
            AsyncTransport::H2(body, _) => poll_send(body, self.cx, bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.connection {
            AsyncTransport::Tcp(_) | AsyncTransport::H2(..) => Ok(()),
            AsyncTransport::Other(stream) => ready(Pin::new(stream).poll_flush(self.cx)),
        }
    }

    fn shutdown(&mut self) -> io::Result<()> {
        ready(match self.connection {
            AsyncTransport::Tcp(socket) => Pin::new(socket).poll_shutdown(self.cx),
            AsyncTransport::Other(stream) => Pin::new(stream).poll_shutdown(self.cx),
            AsyncTransport::H2(body, _) => Poll::Ready(body.send_data(Bytes::new(), true).map_err(io::Error::other)),
        })
    }

    fn reset_on_close(&mut self, abandoned: bool) -> io::Result<()> {
        match self.connection {
            AsyncTransport::Tcp(socket) => reset(SockRef::from(&*socket)),
            AsyncTransport::Other(stream) => sys::with_socket(stream.id(), reset),
            AsyncTransport::H2(body, pending_reset) => {
                if !abandoned
                    && pending_reset
                        .get_or_insert_with(|| PendingReset::send(body, self.cx.waker()))
                        .poll(self.cx)
                        .is_pending()
                {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                // CANCEL is an ordinary end to some clients.
                body.send_reset(Reason::INTERNAL_ERROR);
            }
        }
        Ok(())
    }
}
