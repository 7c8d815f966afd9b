//! Incremental decoder for the chunked transfer coding (RFC 9112 §7.1), strict: what the grammar forbids is an error.
//!
//! One exception: the bytes `ff\n` in place of a chunk, if they are the last of the connection. With them, sse-proxy breaks
//! a stream off on purpose (`docs/clients.md`): a chunk is announced that does not come. Such a body is truncated, as one
//! without a last chunk is. `ff\n` with anything behind it, any other size line that ends in a bare LF (`fe\n`, `0ff\n`,
//! `ff;x\n`), and everything else that the grammar forbids is malformed.

use thiserror::Error;

/// A line of chunk framing (size and extensions, or one trailer field) may be this long.
const MAX_LINE_BYTES: u16 = 8 * 1024;

/// The chunk that is announced when a stream is broken off, and the length of its line, `ff\n`.
const BROKEN_OFF_SIZE: u64 = 0xff;
const BROKEN_OFF_BYTES: u16 = 3;

/// Why a body is not valid chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// The size is missing, not hexadecimal, or followed by something else than an extension.
    #[error("malformed chunk size")]
    Size,
    /// The size does not fit 64 bits.
    #[error("chunk size overflows")]
    Overflow,
    /// A line of framing does not end in CRLF.
    #[error("chunk framing without CRLF")]
    LineEnd,
    /// A size line or trailer line is longer than 8 KiB.
    #[error("chunk framing line longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
}

/// Where in the coding the next byte stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    SizeDigits(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    /// After `ff\n`: nothing may follow, and the body is not done.
    BrokenOff,
    Done,
}

/// The state between two reads: a few words per stream.
#[derive(Debug, Default, Clone, Copy)]
pub struct Decoder {
    state: State,
    line_bytes: u16,
    trailers: u16,
}

impl Decoder {
    /// Decodes `input`, handing out body bytes as they come, and returns how much of it belonged to this body.
    ///
    /// # Errors
    /// What the grammar forbids; the decoder is of no use afterwards.
    pub fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                sink(&input[at..at + taken]);
                at += taken;
                let left = left - taken as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                continue;
            }
            self.state = self.framing(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Whether the last chunk and its trailers have been seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many trailer fields followed the last chunk.
    #[must_use]
    pub fn trailers(&self) -> u16 {
        self.trailers
    }

    fn framing(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.line_bytes += 1;
        if self.line_bytes > MAX_LINE_BYTES {
            return Err(ChunkError::LineTooLong);
        }
        match (self.state, byte) {
            (State::Size, _) => Ok(State::SizeDigits(hex(byte).ok_or(ChunkError::Size)?)),
            (State::SizeDigits(size), b'\r') | (State::Extension(size), b'\r') => Ok(State::SizeLf(size)),
            // "BWS" before the extension's semicolon: bad whitespace that a recipient must parse.
            (State::SizeDigits(size), b';' | b' ' | b'\t') => Ok(State::Extension(size)),
            (State::SizeDigits(BROKEN_OFF_SIZE), b'\n') if self.line_bytes == BROKEN_OFF_BYTES => Ok(State::BrokenOff),
            (State::BrokenOff, _) => Err(ChunkError::Size),
            (State::SizeDigits(size), _) => {
                let digit = hex(byte).ok_or(ChunkError::Size)?;
                if size >> 60 != 0 {
                    return Err(ChunkError::Overflow);
                }
                Ok(State::SizeDigits(size << 4 | digit))
            }
            (State::Extension(_) | State::Trailer, b'\n') => Err(ChunkError::LineEnd),
            (State::Extension(size), _) => Ok(State::Extension(size)),
            (State::SizeLf(0), b'\n') => Ok(self.line(State::TrailerStart)),
            (State::SizeLf(size), b'\n') => Ok(self.line(State::Data(size))),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(self.line(State::Size)),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart, b'\n') => Err(ChunkError::LineEnd),
            (State::TrailerStart, _) => {
                self.trailers = self.trailers.saturating_add(1);
                Ok(State::Trailer)
            }
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::Trailer, _) => Ok(State::Trailer),
            (State::TrailerLf, b'\n') => Ok(self.line(State::TrailerStart)),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::SizeLf(_) | State::DataCr | State::DataLf | State::TrailerLf | State::EndLf, _) => {
                Err(ChunkError::LineEnd)
            }
            (State::Data(_) | State::Done, _) => Ok(self.state),
        }
    }

    fn line(&mut self, next: State) -> State {
        self.line_bytes = 0;
        next
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
