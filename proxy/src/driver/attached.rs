//! A stream that stays in the task that started it, because its request is still being sent through a session.
//!
//! It follows the same rules as every other stream, and is counted and logged like one. Only the task and the sockets
//! belong to the caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use super::drive::{ActiveStream, DriveOutcome};
use super::registry::StreamRegistry;
use super::socket::Socket;
use super::start::Start;
use super::task::NEVER;
use super::{clock, scratch};

/// A stream driven by its caller's task.
pub(crate) struct Attached {
    stream: ActiveStream,
    timer: Pin<Box<Sleep>>,
}

impl Attached {
    /// Starts a stream and counts it as open. Must be called on a tokio runtime.
    pub(crate) fn begin(start: Start, registry: Arc<StreamRegistry>) -> Self {
        let stream = ActiveStream::begin(start, registry, clock::now());
        Self { stream, timer: Box::pin(tokio::time::sleep_until(clock::instant(NEVER))) }
    }

    /// Makes all progress that is possible now. Ready once the stream has ended. Sets `upstream` to `None` as soon as
    /// the stream no longer needs it.
    pub(crate) fn poll<C: Socket, U: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        upstream: &mut Option<U>,
    ) -> Poll<()> {
        self.stream.guard().register(cx.waker());
        let now = clock::now();
        let _ = self.stream.receive_visits(now);
        let next = scratch::with(|scratch| self.stream.drive(client, upstream, now, scratch));
        match next {
            DriveOutcome::Done => return Poll::Ready(()),
            DriveOutcome::Again => cx.waker().wake_by_ref(),
            DriveOutcome::Wait => {
                let due = self.stream.pair.next_deadline().unwrap_or(NEVER);
                self.timer.as_mut().reset(clock::instant(due.coarse(clock::now())));
                if self.timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }

    /// The rest of the request cannot be sent: the stream ends broken.
    pub(crate) fn request_failed(&mut self) {
        self.stream.pair.upstream_failed(clock::now());
    }

    /// The client closed the connection, or aborted its request.
    pub(crate) fn client_gone(&mut self) {
        self.stream.pair.client_gone();
    }
}
