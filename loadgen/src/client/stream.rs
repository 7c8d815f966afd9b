//! The life of one stream as its client sees it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::connect::connect;
use super::end::EndReason;
use super::meter::Track;
use crate::clock::unix_us;
use crate::record::Record;
use crate::sse::parser::Parser;
use crate::wire::body::Body;
use crate::wire::head::{self, Head};

const HEAD_READ_BYTES: usize = 2048;

/// What is asked for, and from where.
#[derive(Debug)]
pub struct Request<'a> {
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The address to connect to.
    pub destination: SocketAddr,
    /// The request as it is sent.
    pub bytes: &'a [u8],
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the answer's head may take.
    pub head_timeout: Duration,
}

/// What the streams of one worker share; only ever borrowed between two waits.
#[derive(Debug)]
pub struct Shared {
    /// Where everything is counted.
    pub record: Record,
    /// One entry per stream, open or not.
    pub tracks: Vec<Track>,
    /// Read buffer: what it holds is used up before the next stream reads.
    pub scratch: Vec<u8>,
}

/// Runs stream number `slot` to its end; `opening` is given back once the head has come. Dropping the future closes the
/// connection.
pub async fn run(
    slot: usize,
    request: Request<'_>,
    opening: OwnedSemaphorePermit,
    shared: &RefCell<Shared>,
) -> EndReason {
    // On the heap: what opening needs would otherwise be kept in the future as long as the stream lives.
    let mut opened = match Box::pin(open(&request, shared)).await {
        Ok(opened) => opened,
        Err(reason) => return reason,
    };
    drop(opening);
    {
        let shared = &mut *shared.borrow_mut();
        shared.record.counts.streams += 1;
        shared.record.counts.open += 1;
        shared.tracks[slot].opened();
    }
    let reason = opened.read_to_end(slot, shared).await;
    let shared = &mut *shared.borrow_mut();
    shared.record.counts.open -= 1;
    shared.tracks[slot].ended();
    reason
}

/// A stream whose head has come.
struct Opened {
    io: TcpStream,
    body: Body,
    parser: Parser,
    /// Body bytes that came along with the head.
    early: Vec<u8>,
}

async fn open(request: &Request<'_>, shared: &RefCell<Shared>) -> Result<Opened, EndReason> {
    shared.borrow_mut().record.counts.attempted += 1;
    let started = Instant::now();
    let connecting = timeout(request.connect_timeout, connect(request.source, request.destination)).await;
    let mut io = connecting.map_err(|_| EndReason::ConnectTimeout)?.map_err(|error| EndReason::from_io(&error))?;
    {
        let record = &mut shared.borrow_mut().record;
        record.connect_us.record(started.elapsed().as_micros() as u64);
        record.counts.connected += 1;
    }
    let exchange = timeout(request.head_timeout, exchange_heads(&mut io, request.bytes, shared)).await;
    let (head, early) = exchange.map_err(|_| EndReason::HeadTimeout)??;
    if head.status != 200 {
        return Err(EndReason::Status(head.status));
    }
    if !head.is_event_stream {
        return Err(EndReason::NotEventStream);
    }
    Ok(Opened { io, body: Body::new(head.framing), parser: Parser::default(), early })
}

/// Sends the request and reads the final head; also returns what came after it.
async fn exchange_heads(
    io: &mut TcpStream,
    request: &[u8],
    shared: &RefCell<Shared>,
) -> Result<(Head, Vec<u8>), EndReason> {
    io.write_all(request).await.map_err(|error| EndReason::from_io(&error))?;
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

impl Opened {
    async fn read_to_end(&mut self, slot: usize, shared: &RefCell<Shared>) -> EndReason {
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
                Err(error) => return from_read(&error),
            }
        }
    }

    /// Takes bytes as they came off the connection; returns a reason when the stream is over.
    fn take(&mut self, bytes: &[u8], slot: usize, shared: &mut Shared) -> Option<EndReason> {
        let now_us = unix_us();
        let (record, track, parser) = (&mut shared.record, &mut shared.tracks[slot], &mut self.parser);
        let fed = self.body.feed(bytes, |content| {
            record.counts.bytes += content.len() as u64;
            parser.feed(content, |item| track.count(item, now_us, record));
        });
        if fed.is_err() {
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

fn from_read(error: &io::Error) -> EndReason {
    match EndReason::from_io(error) {
        // While reading, a timeout is the network's: the peer is gone without a word.
        EndReason::ConnectTimeout => EndReason::Reset,
        reason => reason,
    }
}
