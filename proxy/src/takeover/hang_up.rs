//! Notices that a client has closed its connection although what it has sent is not read.

use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::driver::descriptors;
use crate::sys;

/// A watch on a connection. It holds a descriptor of its own, since the runtime reports readiness once for each: while
/// unread bytes are ready, the session's own descriptor reports nothing more.
pub(super) struct HangUp(Option<TcpStream>);

impl HangUp {
    /// Watches the connection below a session. Without a descriptor for it, never reports anything; the exchange still
    /// has its deadlines. Must be called on a tokio runtime.
    pub(super) fn watch(stream: Option<&Stream>) -> Self {
        let watch = |stream: &Stream| {
            let duplicate = sys::duplicate(stream.id())?;
            if descriptors::is_reserved(duplicate.as_raw_fd()) {
                return Err(descriptors::none_left());
            }
            // Nothing is read from it.
            TcpStream::from_std(StdStream::from(duplicate))
        };
        // A virtual connection has no descriptor.
        let watched: Option<io::Result<_>> = stream.filter(|stream| stream.id() >= 0).map(watch);
        Self(watched.and_then(Result::ok))
    }

    /// Ready once the client has closed its side, or the connection has failed.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(watched) = &self.0 else { return Poll::Pending };
        while let Poll::Ready(Ok(())) = watched.poll_read_ready(cx) {
            // What is ready counts as used up unless it is the end.
            let ended = watched.try_io(Interest::READABLE, || match sys::peer_has_closed(watched.as_raw_fd()) {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            });
            if ended.is_ok() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
