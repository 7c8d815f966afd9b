//! Writes one stream: head, events at their due times, and the requested end.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::event::{content_bytes, write_comment, write_event, write_retry};
use super::schedule::first_due_us;
use super::spec::{Ending, Mode, Pieces, StreamSpec, TransferFraming};
use super::thread_context::ThreadContext;
use crate::clock::unix_us;
use crate::stamp::Stamp;

/// The largest piece `split=random` cuts.
const MAX_RANDOM_PIECE_BYTES: usize = 40;

/// What may wait in the kernel of a flood: a client that does not read stops it soon, and what piles up does so elsewhere.
const FLOOD_BUFFER_BYTES: usize = 64 * 1024;

/// A stream that is about to be served.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) io: TcpStream,
    pub(super) spec: Box<StreamSpec>,
    /// Number of this stream, unique within the process.
    pub(super) number: u64,
    /// Events the client already has.
    pub(super) already: u64,
    /// Whether the body may be chunked (HTTP/1.1).
    pub(super) may_chunk: bool,
    /// Whether the request is HEAD.
    pub(super) is_head_only: bool,
}

/// Serves the stream until it ends or the client closes the connection.
pub(super) async fn serve(mut stream: Stream, thread: &ThreadContext) {
    if !stream.may_chunk && stream.spec.framing == TransferFraming::Chunked {
        stream.spec.framing = TransferFraming::Close;
        stream.spec.trailers = false;
    }
    tokio::select! {
        biased;
        () = gone(&stream.io) => {}
        // An error means that the client closed the connection.
        _ = stream.write(thread) => {}
    }
}

/// Completes when the peer has closed; what it sends meanwhile is thrown away.
async fn gone(io: &TcpStream) {
    let mut scratch = [0; 512];
    while io.readable().await.is_ok() {
        match io.try_read(&mut scratch) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl Stream {
    async fn write(&self, thread: &ThreadContext) -> io::Result<()> {
        let spec = &*self.spec;
        if spec.mode == Mode::Hang {
            return std::future::pending().await;
        }
        if spec.first_byte_delay_us > 0 {
            thread.timer.until(unix_us() + spec.first_byte_delay_us).await;
        }
        if spec.mode == Mode::Flood {
            SockRef::from(&self.io).set_send_buffer_size(FLOOD_BUFFER_BYTES)?;
        }
        self.send(self.head().as_bytes()).await?;
        if self.is_head_only {
            return Ok(());
        }
        if spec.bom {
            self.send_content(b"\xEF\xBB\xBF").await?;
        }
        if let Some(retry_ms) = spec.retry_ms {
            let mut retry = Vec::new();
            write_retry(spec, retry_ms, &mut retry);
            self.send_content(&retry).await?;
        }
        if spec.mode == Mode::Silent {
            return self.silence(thread, u64::MAX).await;
        }
        let mut due_us = first_due_us(&self.gated(thread).await?, self.number, unix_us());
        for seq in self.already + 1..=spec.count.unwrap_or(u64::MAX) {
            if spec.mode == Mode::Flood {
                due_us = unix_us();
                tokio::task::yield_now().await;
            } else {
                self.silence(thread, due_us).await?;
            }
            if spec.abort_after.is_some_and(|events| seq > self.already + events) {
                return self.abort(seq, due_us).await;
            }
            self.send_event(thread, seq, due_us).await?;
            due_us += spec.interval_us;
        }
        match spec.ending {
            Ending::Hold => self.silence(thread, u64::MAX).await,
            Ending::Close => self.finish().await,
        }
    }

    fn head(&self) -> String {
        let spec = &self.spec;
        let framing = match spec.framing {
            TransferFraming::Chunked if spec.trailers => {
                "Transfer-Encoding: chunked\r\nTrailer: X-Ended-At\r\n".to_owned()
            }
            TransferFraming::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            TransferFraming::Length => {
                let bom_bytes = if spec.bom { 3 } else { 0 };
                let bytes = content_bytes(spec, self.number, self.already, unix_us()) + bom_bytes;
                format!("Content-Length: {bytes}\r\n")
            }
            TransferFraming::Close => "Connection: close\r\n".to_owned(),
        };
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nAccess-Control-Allow-Origin: *\r\n{framing}\r\n"
        )
    }

    /// Waits for the gate, if there is one; returns the description with its start moved there.
    async fn gated(&self, thread: &ThreadContext) -> io::Result<StreamSpec> {
        let mut spec = (*self.spec).clone();
        if let Some(name) = &self.spec.gate {
            let opened = thread.gates.opened(name);
            spec.start_at_us = match spec.comments_us {
                None => opened.await,
                Some(_) => tokio::select! {
                    start_us = opened => start_us,
                    ended = self.silence(thread, u64::MAX) => return Err(ended.err().unwrap_or_else(|| io::ErrorKind::Other.into())),
                },
            };
        }
        Ok(spec)
    }

    /// Sends nothing but comments, if requested, until `due_us`.
    async fn silence(&self, thread: &ThreadContext, due_us: u64) -> io::Result<()> {
        let Some(comments_us) = self.spec.comments_us else {
            thread.timer.until(due_us).await;
            return Ok(());
        };
        // Comments keep to multiples of their interval, so that they come as often however short the silences are.
        let mut comment_us = unix_us() / comments_us * comments_us + comments_us;
        while comment_us < due_us {
            thread.timer.until(comment_us).await;
            let mut comment = Vec::new();
            write_comment(&self.spec, " comment", &mut comment);
            self.send_content(&comment).await?;
            comment_us += comments_us;
        }
        thread.timer.until(due_us).await;
        Ok(())
    }

    /// Sends one event: in one write out of the thread's scratch buffers unless it is to be cut.
    async fn send_event(&self, thread: &ThreadContext, seq: u64, due_us: u64) -> io::Result<()> {
        let stamp = Stamp { stream: self.number, seq, due_us, sent_us: unix_us() };
        if self.spec.pieces != Pieces::Whole {
            let mut content = Vec::new();
            write_event(&self.spec, stamp, &mut content);
            return self.send_content(&content).await;
        }
        let unsent = {
            let scratch = &mut *thread.scratch.borrow_mut();
            scratch.content.clear();
            write_event(&self.spec, stamp, &mut scratch.content);
            scratch.wire.clear();
            self.frame(&scratch.content, &mut scratch.wire);
            match self.io.try_write(&scratch.wire) {
                Ok(sent) if sent == scratch.wire.len() => return Ok(()),
                Ok(sent) => scratch.wire[sent..].to_vec(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => scratch.wire.clone(),
                Err(error) => return Err(error),
            }
        };
        self.send(&unsent).await
    }

    /// Frames and sends content, cut as the stream asks for.
    async fn send_content(&self, content: &[u8]) -> io::Result<()> {
        match self.spec.pieces {
            Pieces::Whole => {
                let mut wire = Vec::new();
                self.frame(content, &mut wire);
                self.send(&wire).await
            }
            Pieces::Every(bytes) => {
                for piece in content.chunks(bytes) {
                    let mut wire = Vec::new();
                    self.frame(piece, &mut wire);
                    self.send(&wire).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Pieces::Random => {
                let mut wire = Vec::new();
                for piece in random_pieces(content) {
                    self.frame(piece, &mut wire);
                }
                for piece in random_pieces(&wire) {
                    self.send(piece).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }

    fn frame(&self, content: &[u8], wire: &mut Vec<u8>) {
        if self.spec.framing != TransferFraming::Chunked {
            wire.extend_from_slice(content);
            return;
        }
        wire.extend_from_slice(format!("{:x}\r\n", content.len()).as_bytes());
        wire.extend_from_slice(content);
        wire.extend_from_slice(b"\r\n");
    }

    /// Cuts the connection in the middle of an event and, where there are chunks, of a chunk.
    async fn abort(&self, seq: u64, due_us: u64) -> io::Result<()> {
        let mut content = Vec::new();
        write_event(&self.spec, Stamp { stream: self.number, seq, due_us, sent_us: unix_us() }, &mut content);
        let mut wire = Vec::new();
        self.frame(&content, &mut wire);
        self.send(&wire[..wire.len() / 2]).await?;
        if self.spec.framing == TransferFraming::Close {
            // A plain close would be a clean end here; a reset is not.
            SockRef::from(&self.io).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    async fn finish(&self) -> io::Result<()> {
        if self.spec.framing != TransferFraming::Chunked {
            return Ok(());
        }
        let trailers = if self.spec.trailers { format!("X-Ended-At: {}\r\n", unix_us()) } else { String::new() };
        self.send(format!("0\r\n{trailers}\r\n").as_bytes()).await
    }

    /// Writes all of it, waiting as long as the client does not read.
    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.io.writable().await?;
            match self.io.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn random_pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (piece, rest) = bytes.split_at(fastrand::usize(1..=MAX_RANDOM_PIECE_BYTES).min(bytes.len()));
        bytes = rest;
        Some(piece)
    })
}
