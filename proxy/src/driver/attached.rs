//! A stream that cannot leave the task it began in: its request is still being sent, so its client is still in a session.
//!
//! The same rules and the same entry in the counts and the log as for every other stream; only the task and the sockets
//! are the caller's.

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
    /// Counted as open from here. Has to be called on a tokio runtime.
    pub(crate) fn begin(start: Start, registry: Arc<StreamRegistry>) -> Self {
        let stream = ActiveStream::begin(start, registry, clock::now());
        Self { stream, timer: Box::pin(tokio::time::sleep_until(clock::instant(NEVER))) }
    }

    /// Does everything that can be done now; is ready once the stream has ended. `upstream` becomes `None` as soon as
    /// nothing more is wanted of it.
    pub(crate) fn poll<C: Socket, U: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        upstream: &mut Option<U>,
    ) -> Poll<()> {
        self.stream.guard().register(cx.waker());
        let next = scratch::with(|scratch| self.stream.drive(client, upstream, clock::now(), scratch));
        match next {
            DriveOutcome::Done => return Poll::Ready(()),
            DriveOutcome::Again => cx.waker().wake_by_ref(),
            DriveOutcome::Wait => {
                let due = self.stream.core.next_deadline().unwrap_or(NEVER);
                self.timer.as_mut().reset(clock::instant(due.coarse(clock::now())));
                if self.timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }

    /// The request cannot be sent to its end: the stream breaks off.
    pub(crate) fn request_failed(&mut self) {
        self.stream.core.upstream_failed(clock::now());
    }

    /// The client is gone, or broke its request off.
    pub(crate) fn client_gone(&mut self) {
        self.stream.core.client_gone();
    }
}
