//! Sends a request in a task: moves its bytes from the client to the upstream as [`Upload`] says.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, OrErr};
use tokio::io::AsyncWrite;

use super::client::Client;
use super::connection::UpstreamConnection;
use crate::exchange::Need;
use crate::failure::Failure;

pub(super) use crate::exchange::{Upload, WaitsFor};

/// Steps in one poll, before the task yields.
const STEPS_PER_POLL: u32 = 32;

impl Upload {
    /// Makes the progress that is possible now.
    ///
    /// # Errors
    /// [`Failure::Broken`] when the upstream reads no more, which may still respond; any other when the client's side
    /// fails.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Result<(), Failure> {
        for _ in 0..STEPS_PER_POLL {
            if self.need() == Need::Nothing {
                return Ok(());
            }
            match self.step(cx, client, upstream) {
                Poll::Pending => return Ok(()),
                Poll::Ready(moved) => moved?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<'_>,
        upstream: &mut UpstreamConnection,
    ) -> Poll<Result<(), Failure>> {
        match self.need() {
            Need::Write(bytes) => {
                let written = ready!(Pin::new(&mut *upstream).poll_write(cx, bytes));
                let count = written.or_err(ErrorType::WriteError, "writing the request").map_err(broken)?;
                if count == 0 {
                    return Poll::Ready(Err(broken(Error::explain(ErrorType::WriteError, "writing the request"))));
                }
                self.wrote(count);
            }
            Need::Flush => {
                ready!(Pin::new(&mut *upstream).poll_flush(cx))
                    .or_err(ErrorType::WriteError, "flushing the request")
                    .map_err(broken)?;
                self.flushed();
            }
            Need::Continue => {
                let head = ResponseHeader::build(100, Some(0)).map_err(client_gone)?;
                client.send_head(Box::new(head), false).map_err(client_gone)?;
                self.continue_queued();
            }
            Need::FlushClient => {
                ready!(client.poll_flush(cx)).map_err(client_gone)?;
                self.client_flushed();
            }
            Need::Read => {
                let piece = match client.poll_body(cx) {
                    Poll::Ready(piece) => piece.map_err(Failure::of_request_body)?,
                    Poll::Pending => {
                        // Buffered bytes must not wait for the client.
                        let _ = Pin::new(&mut *upstream).poll_flush(cx);
                        return Poll::Pending;
                    }
                };
                self.read(piece)?;
            }
            Need::Nothing => {}
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(source: Box<Error>) -> Failure {
    Failure::Broken { source }
}

fn client_gone(source: Box<Error>) -> Failure {
    Failure::ClientGone { source }
}
