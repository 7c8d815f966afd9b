//! A stream over HTTP/1.1, on a connection of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::end::EndReason;
use super::io::Io;
use super::shared::Shared;
use crate::clock::unix_us;
use crate::sse::parser::Parser;
use crate::wire::body::Body;
use crate::wire::head::{self, Head};

const HEAD_READ_BYTES: usize = 2048;
/// What may come of an answer while its request is still being sent.
const MAX_EARLY_BYTES: usize = 1 << 20;

/// A response whose head has come.
pub(super) struct Response {
    io: Io,
    body: Body,
    parser: Parser,
    /// Body bytes that came along with the head.
    early: Vec<u8>,
    /// When the request had been sent, Unix µs.
    pub(super) request_sent_us: u64,
}

/// Sends the request of a stream that was due at `due_us`, and reads the final head.
pub(super) async fn exchange(
    mut io: Io,
    request: &[u8],
    due_us: u64,
    shared: &RefCell<Shared>,
) -> Result<Response, EndReason> {
    let mut upload = Upload { unsent: request, sent_us: None, failure: None };
    let (head, early) = exchange_heads(&mut io, &mut upload, due_us, shared).await?;
    if head.status != 200 {
        return Err(EndReason::Status(head.status));
    }
    if !head.is_event_stream {
        return Err(EndReason::NotEventStream);
    }
    if let Some(coding) = head.coding {
        return Err(EndReason::ContentCoding(coding));
    }
    let request_sent_us = upload.sent_us.unwrap_or_else(unix_us);
    Ok(Response { io, body: Body::new(head.framing), parser: Parser::default(), early, request_sent_us })
}

/// A server may respond and close before it has read the whole request: then the response counts, not the failed write.
async fn exchange_heads(
    io: &mut Io,
    upload: &mut Upload<'_>,
    due_us: u64,
    shared: &RefCell<Shared>,
) -> Result<(Head, Vec<u8>), EndReason> {
    let mut buffer = Vec::new();
    let mut accepted = None;
    let mut is_first = true;
    while accepted.is_none() || !upload.is_over() {
        // A stream that begins before the request is whole waits for it, within bounds.
        let reads = buffer.len() < MAX_EARLY_BYTES;
        match poll_fn(|context| upload.poll(io, context, reads.then_some(&mut buffer))).await {
            Ok(Step::Sent) => continue,
            Ok(Step::Read) => {}
            Ok(Step::Ended) => match accepted {
                Some(head) => return Ok((head, buffer)),
                None => return Err(upload.failure.unwrap_or(EndReason::Truncated)),
            },
            Err(reason) => match accepted {
                Some(head) => return Ok((head, buffer)),
                None => return Err(upload.failure.unwrap_or(reason)),
            },
        }
        if std::mem::take(&mut is_first) {
            shared.borrow_mut().record.first_byte(due_us, upload.sent_us, unix_us());
        }
        while accepted.is_none()
            && let Some(head) = head::parse(&buffer).map_err(EndReason::from_head)?
        {
            buffer.drain(..head.bytes);
            if head.status > 200 {
                return Ok((head, buffer));
            }
            accepted = (head.status == 200).then_some(head);
        }
    }
    accepted.map(|head| (head, buffer)).ok_or(EndReason::Truncated)
}

/// A request that is being sent while its response may already arrive.
struct Upload<'a> {
    unsent: &'a [u8],
    /// When the last byte was handed on, Unix µs.
    sent_us: Option<u64>,
    /// Why the rest cannot be sent.
    failure: Option<EndReason>,
}

/// What has happened on the connection.
enum Step {
    /// The request is sent, or cannot be.
    Sent,
    /// Bytes have come.
    Read,
    /// The connection's end has come.
    Ended,
}

impl Upload<'_> {
    fn is_over(&self) -> bool {
        self.sent_us.is_some() || self.failure.is_some()
    }

    /// Sends what can be sent, and reads into `buffer` if there is one.
    fn poll(
        &mut self,
        io: &mut Io,
        context: &mut Context<'_>,
        buffer: Option<&mut Vec<u8>>,
    ) -> Poll<Result<Step, EndReason>> {
        if !self.is_over() {
            match self.poll_send(io, context) {
                Poll::Ready(Ok(())) => self.sent_us = Some(unix_us()),
                Poll::Ready(Err(error)) => self.failure = Some(EndReason::from_read(&error)),
                Poll::Pending => {}
            }
            if self.is_over() {
                return Poll::Ready(Ok(Step::Sent));
            }
        }
        let Some(buffer) = buffer else { return Poll::Pending };
        let mut bytes = [0; HEAD_READ_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        match ready!(Pin::new(io).poll_read(context, &mut read)) {
            Ok(()) if read.filled().is_empty() => Poll::Ready(Ok(Step::Ended)),
            Ok(()) => {
                buffer.extend_from_slice(read.filled());
                Poll::Ready(Ok(Step::Read))
            }
            Err(error) => Poll::Ready(Err(EndReason::from_read(&error))),
        }
    }

    fn poll_send(&mut self, io: &mut Io, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut *io).poll_write(context, self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.unsent = &self.unsent[sent..];
        }
        Pin::new(io).poll_flush(context)
    }
}

impl Response {
    pub(super) async fn read_to_end(&mut self, slot: usize, shared: &RefCell<Shared>) -> EndReason {
        let early = std::mem::take(&mut self.early);
        if let Some(reason) = self.take(&early, slot, &mut shared.borrow_mut()) {
            return reason;
        }
        drop(early);
        loop {
            let read = poll_fn(|context| {
                let shared = &mut *shared.borrow_mut();
                let mut scratch = std::mem::take(&mut shared.scratch);
                let mut buffer = ReadBuf::new(&mut scratch);
                let polled = Pin::new(&mut self.io).poll_read(context, &mut buffer);
                let outcome = match polled {
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Ok(Some(self.ended()))),
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(self.take(buffer.filled(), slot, shared))),
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                };
                shared.scratch = scratch;
                Poll::Ready(ready!(outcome))
            });
            match read.await {
                Ok(None) => {}
                Ok(Some(reason)) => return reason,
                Err(error) => return EndReason::from_read(&error),
            }
        }
    }

    /// Takes bytes as they came off the connection; returns a reason when the stream is over.
    fn take(&mut self, bytes: &[u8], slot: usize, shared: &mut Shared) -> Option<EndReason> {
        let parser = &mut self.parser;
        if self.body.feed(bytes, |content| shared.take(slot, parser, content)).is_err() {
            return Some(EndReason::Malformed);
        }
        self.body.is_done().then(|| self.ended())
    }

    fn ended(&self) -> EndReason {
        match (self.body.may_end_here(), self.parser.in_record()) {
            (false, _) => EndReason::Truncated,
            (true, true) => EndReason::EndInsideRecord,
            (true, false) => EndReason::CleanEnd,
        }
    }
}
