//! Finds the end of a request's body, strictly, so that body and pipelined requests cannot be confused.

use thiserror::Error;

use super::chunked::{ChunkError, Decoder, Piece};
use super::request::{BodyLength, is_token_byte};

/// A request's body, as far as it has been read. Holds none of it.
#[derive(Debug)]
pub struct RequestBody(State);

#[derive(Debug)]
enum State {
    /// The number of remaining bytes.
    Length(u64),
    Chunked {
        decoder: Decoder,
        trailer: TrailerLine,
    },
}

/// The position in a line of the trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrailerLine {
    Start,
    Name,
    Value,
    /// After the CR.
    Lf,
}

impl TrailerLine {
    /// The position after `byte`: `field-name ":" field-value CRLF` (RFC 9112 §5, §7.1.2), not folded.
    fn after(self, byte: u8) -> Result<Self, BodyError> {
        match (self, byte) {
            (Self::Start | Self::Name, byte) if is_token_byte(byte) => Ok(Self::Name),
            (Self::Name, b':') => Ok(Self::Value),
            (Self::Value, b'\r') => Ok(Self::Lf),
            (Self::Value, b'\t') => Ok(Self::Value),
            (Self::Value, byte) if !byte.is_ascii_control() => Ok(Self::Value),
            (Self::Lf, b'\n') => Ok(Self::Start),
            _ => Err(BodyError::TrailerLine),
        }
    }
}

/// The framing of a request's body is broken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk is malformed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A line of the trailer section is not a field line that ends with CRLF.
    #[error("a trailer line is not a header field")]
    TrailerLine,
}

impl RequestBody {
    /// A body of which nothing has been read.
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::Chunked { decoder: Decoder::default(), trailer: TrailerLine::Start },
        })
    }

    /// Whether all of it has been read.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            State::Length(left) => *left == 0,
            State::Chunked { decoder, .. } => decoder.is_done(),
        }
    }

    /// Returns how many of the next `bytes` of the connection belong to the body and its framing.
    ///
    /// # Errors
    /// When the framing is malformed, so that the end of the body is unknown.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        match &mut self.0 {
            State::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                Ok(count)
            }
            State::Chunked { decoder, trailer } => {
                let mut rest = bytes;
                while !decoder.is_done() {
                    match decoder.next(&mut rest)? {
                        Some(Piece::Data(_)) => {}
                        Some(Piece::Trailer(line)) => {
                            for byte in line {
                                *trailer = trailer.after(*byte)?;
                            }
                        }
                        Some(Piece::End) | None => break,
                    }
                }
                Ok(bytes.len() - rest.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `bytes` in two parts; how many belong to the body, and whether it is done.
    fn take(length: BodyLength, bytes: &[u8], cut: usize) -> Result<(usize, bool), BodyError> {
        let mut body = RequestBody::new(length);
        let mut count = body.take(&bytes[..cut])?;
        if count == cut {
            count += body.take(&bytes[cut..])?;
        }
        Ok((count, body.is_done()))
    }

    #[test]
    fn a_body_ends_where_its_framing_says_however_it_is_split() {
        let chunked = [
            (&b"0\r\n\r\n"[..], 5),
            (b"5\r\nhello\r\n0\r\n\r\nGET /", 15),
            (b"1;a=b\r\nx\r\n0\r\nA: b\r\n\r\nG", 21),
            (b"A \r\n0123456789\r\n0\r\n\r\n\r\n", 21),
            (b"0\r\nA:\r\nb-c:\t d\xe9 : e\r\n\r\nG", 23),
        ];
        for (bytes, count) in chunked {
            for cut in 0..=bytes.len() {
                let text = bytes.escape_ascii();
                assert_eq!(take(BodyLength::Chunked, bytes, cut), Ok((count, true)), "cut at {cut} of {text}");
            }
            assert_eq!(take(BodyLength::Chunked, &bytes[..count - 1], 3.min(count - 1)), Ok((count - 1, false)));
        }
        for cut in 0..=5 {
            assert_eq!(take(BodyLength::Length(3), b"abcde", cut), Ok((3, true)));
            assert_eq!(take(BodyLength::Length(9), b"abcde", cut), Ok((5, false)));
        }
        assert!(RequestBody::new(BodyLength::Length(0)).is_done());
    }

    #[test]
    fn odd_framing_is_refused_however_it_is_split() {
        for bytes in [
            &b"\r\n"[..],
            b"5\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhellox\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"5\r\nhello\r\n0\r\nA: b\n\r\n",
            b"5\r\nhello\r\n0\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nword\r\n\r\n",
            b"0\r\n: b\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: b\r\n folded\r\n\r\n",
            b"0\r\nA: b\rc\r\n\r\n",
            b"0\r\nA: \0\r\n\r\n",
            b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"fffffffffffffffff\r\n",
        ] {
            for cut in 0..=bytes.len() {
                assert!(take(BodyLength::Chunked, bytes, cut).is_err(), "cut at {cut} of {}", bytes.escape_ascii());
            }
        }
    }
}
