//! A stream over HTTP/1.1, on a connection of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::end::EndReason;
use super::{Io, Shared};
use crate::sse::parser::Parser;
use crate::wire::body::Body;
use crate::wire::head::{self, Head};

const HEAD_READ_BYTES: usize = 2048;

/// A response whose head has come.
pub(super) struct Response {
    io: Io,
    body: Body,
    parser: Parser,
    /// Body bytes that came along with the head.
    early: Vec<u8>,
}

/// Sends the request and reads the final head.
pub(super) async fn exchange(mut io: Io, request: &[u8], shared: &RefCell<Shared>) -> Result<Response, EndReason> {
    let (head, early) = exchange_heads(&mut io, request, shared).await?;
    if head.status != 200 {
        return Err(EndReason::Status(head.status));
    }
    if !head.is_event_stream {
        return Err(EndReason::NotEventStream);
    }
    Ok(Response { io, body: Body::new(head.framing), parser: Parser::default(), early })
}

async fn exchange_heads(io: &mut Io, request: &[u8], shared: &RefCell<Shared>) -> Result<(Head, Vec<u8>), EndReason> {
    io.write_all(request).await.map_err(|error| EndReason::from_io(&error))?;
    io.flush().await.map_err(|error| EndReason::from_io(&error))?;
    let sent = Instant::now();
    let mut buffer = Vec::new();
    let mut is_first = true;
    loop {
        buffer.reserve(HEAD_READ_BYTES);
        match io.read_buf(&mut buffer).await {
            Ok(0) => return Err(EndReason::Truncated),
            Ok(_) => {}
            Err(error) => return Err(EndReason::from_io(&error)),
        }
        if std::mem::take(&mut is_first) {
            shared.borrow_mut().record.ttfb_us.record(sent.elapsed().as_micros() as u64);
        }
        while let Some(head) = head::parse(&buffer).map_err(|_| EndReason::Malformed)? {
            buffer.drain(..head.bytes);
            if head.status >= 200 {
                return Ok((head, buffer));
            }
        }
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
