//! The task driver: one small tokio task per stream, for any transport.
//!
//! The future is written by hand: a compiler-generated one is several times as large.

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
use super::transport::{Transport, bound_queue_of, bound_send_queue};
use super::{clock, scratch};
use crate::stream::Millis;
use crate::sys;

/// Stands for no deadline: beyond the life of any process, within the range of the timer wheel.
pub(super) const NEVER: Millis = Millis(1 << 40);

/// Time for an HTTP/2 client to read what it has received before the reset.
const RESET_PAUSE: Duration = Duration::from_millis(500);

/// Runs a stream to its end on the current runtime.
///
/// # Errors
/// When a socket cannot be registered with the runtime.
pub(super) fn spawn(stream: ActiveStream, client: Transport, upstream: Transport) -> io::Result<()> {
    tokio::spawn(task_of(stream, client, upstream)?);
    Ok(())
}

fn task_of(stream: ActiveStream, client: Transport, upstream: Transport) -> io::Result<StreamTask> {
    let timer_at = stream.pair.next_deadline().unwrap_or(NEVER);
    let mut client = AsyncTransport::new(client)?;
    // The head has been written: the client has to see that nothing follows.
    let upstream = Some(AsyncTransport::new(upstream).inspect_err(|_| client.reset())?);
    let timer = tokio::time::sleep_until(clock::instant(timer_at));
    Ok(StreamTask { timer, timer_at, stream, client, upstream })
}

pin_project! {
    struct StreamTask {
        #[pin]
        timer: Sleep,
        // What the timer is set to. Changed only when a deadline is earlier, or when the timer has fired: an event that
        // postpones deadlines costs nothing.
        timer_at: Millis,
        stream: ActiveStream,
        client: AsyncTransport,
        upstream: Option<AsyncTransport>,
    }

    impl PinnedDrop for StreamTask {
        // After a panic, or with the runtime: the response is incomplete, and the client has to see it.
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if !this.stream.has_ended() {
                this.client.reset();
            }
        }
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        this.stream.guard().register(cx.waker());
        let now = clock::now();
        if this.stream.receive_visits(now).policy {
            this.client.bound_send_queue(this.stream.pair.policy().timeouts.write);
        }
        let mut client = Polled { connection: this.client, cx };
        // The waker is the same for both sides; each context needs its own borrow.
        let waker = client.cx.waker().clone();
        let mut second = Context::from_waker(&waker);
        let mut upstream = this.upstream.as_mut().map(|connection| Polled { connection, cx: &mut second });
        let next = scratch::with(|scratch| this.stream.drive(&mut client, &mut upstream, now, scratch));
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
            let due = this.stream.pair.next_deadline().unwrap_or(NEVER);
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
    // The body, and the reset that waits to be sent.
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

    fn bound_send_queue(&self, limit: Option<Duration>) {
        match self {
            Self::Tcp(socket) => bound_queue_of(SockRef::from(socket), limit),
            Self::Other(stream) => bound_send_queue(stream, limit),
            Self::H2(..) => {}
        }
    }

    /// Resets the connection, or the stream over HTTP/2.
    fn reset(&mut self) {
        match self {
            Self::Tcp(socket) => reset(SockRef::from(&*socket)),
            Self::Other(stream) => sys::with_socket(stream.id(), reset),
            // Some clients treat CANCEL as a normal end.
            Self::H2(body, _) => body.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

/// Delays a reset over HTTP/2 until the client has had time to read what was sent. A reset drops what is queued on the
/// connection, and clients drop what they have not read: without the delay, the last events are lost.
pub(crate) struct PendingReset {
    in_flight: Weak<()>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl PendingReset {
    /// Sends an empty piece, which the connection drops once it has sent everything queued before it.
    pub(crate) fn send(body: &mut SendStream<Bytes>, stream: &Waker) -> Box<Self> {
        let in_flight = Arc::new(());
        let pending_reset = Self { in_flight: Arc::downgrade(&in_flight), pause: None };
        // An error means that the stream has ended already, and the piece is dropped at once.
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

/// Wakes its stream when it is dropped; weak pointers to it then dangle.
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

/// Adapts a polled connection to non-blocking calls; registers the waker when an operation would block.
struct Polled<'a, 'b, 'c> {
    connection: &'a mut AsyncTransport,
    cx: &'b mut Context<'c>,
}

/// Sends as much as the stream's window and its share of the send buffer allow.
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
            // Nothing is read from an HTTP/2 client; its close shows as a reset.
            AsyncTransport::H2(body, _) => body.poll_reset(self.cx).map(|_| Err(io::ErrorKind::ConnectionReset.into())),
        })?;
        Ok(buffer.filled().len())
    }

    fn has_unread(&mut self) -> bool {
        match self.connection {
            AsyncTransport::Tcp(socket) => has_readable_bytes(SockRef::from(&*socket)),
            // TLS cannot be peeked: assume that there are bytes; other deadlines still apply.
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
        if let AsyncTransport::H2(body, pending_reset) = &mut *self.connection
            && !abandoned
            && pending_reset.get_or_insert_with(|| PendingReset::send(body, self.cx.waker())).poll(self.cx).is_pending()
        {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.connection.reset();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as StdTcpStream};

    use super::*;
    use crate::driver::{Ended, Observer, Route, Start, StreamInfo};
    use crate::stream::{EndReason, Framing, Opening, Policy};
    use crate::wire::body::Body;

    struct OnlyDropped;

    impl Observer for OnlyDropped {
        fn ended(&self, ended: &Ended<'_>) {
            assert_eq!(ended.reason, EndReason::Dropped);
        }
    }

    /// Invariant: a client sees that a stream is incomplete, whatever ended it. Mechanism: a body that is dropped is reset by
    /// its library, with CANCEL. Symptom: a stream whose task panicked, or was still running when the process stopped, ended
    /// in order for clients that take CANCEL for an end.
    #[tokio::test]
    async fn a_stream_whose_task_is_dropped_is_reset_with_internal_error() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let client = async {
            let (mut requests, connection) = h2::client::handshake(far).await.expect("HTTP/2");
            tokio::spawn(connection);
            let request = http::Request::get("http://test/").body(()).expect("a request");
            let response = requests.send_request(request, true).expect("a stream").0.await.expect("a head");
            let mut body = response.into_body();
            assert_eq!(body.data().await.expect("data").expect("data"), "data: a\n\n");
            body.data().await.expect("an end").expect_err("a broken end").reason()
        };
        let server = async {
            let mut connection = h2::server::handshake(near).await.expect("HTTP/2");
            let (_, mut respond) = connection.accept().await.expect("a request").expect("a request");
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let body = respond.send_response(http::Response::new(()), false).expect("a head");
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let upstream = StdTcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            upstream.set_nonblocking(true).expect("a non-blocking socket");
            let (_open, _) = listener.accept().expect("a connection");
            let route = Route::new("/", Policy::default(), Arc::new(OnlyDropped));
            let (policy, body_framing) = (route.policy.clone(), Body::UntilClose);
            let opening = Opening {
                policy,
                body: body_framing,
                framing: Framing::Http2,
                identity: true,
                random: 0.0,
                lifetime: None,
            };
            let info = StreamInfo::new(None, None, "GET", "/", Duration::ZERO);
            let start = Start { opening, unsent: Vec::new(), leftover: b"data: a\n\n".to_vec(), route, info };
            let stream = ActiveStream::begin(start, Arc::default(), clock::now());
            let mut task = Box::pin(task_of(stream, Transport::H2(body), Transport::Tcp(upstream)).expect("a task"));
            let polled = std::future::poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await;
            assert!(polled.is_pending(), "the stream runs");
            // What has been sent, a reset does not overtake.
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(task);
        };
        let (reason, ()) = tokio::join!(client, server);
        assert_eq!(reason, Some(Reason::INTERNAL_ERROR));
    }
}
