//! The chunked transfer coding (RFC 9112 §7.1): an incremental decoder, and an encoder for one chunk.

use thiserror::Error;

/// Longest chunk extension, and longest trailer section, that is accepted, in bytes.
const MAX_OVERHEAD_BYTES: u16 = 8 * 1024;

/// The last chunk with an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Sent in place of a chunk to signal that the body is incomplete: it announces a chunk that does not follow, in a line
/// that ends without CR.
///
/// A missing last chunk means the same (RFC 9112 §8), but not to every client. After `Connection: close`, undici before
/// version 7 (`fetch` in Node 18 and 20) takes the end of the connection for the end of any body, and reports an error
/// only for a malformed line. aiohttp hangs after a malformed line; it accepts this one, and reports the missing chunk.
/// Python's `http.client`, read by lines, reports an error only after the start of a chunk.
pub const BROKEN_CHUNK: &[u8] = b"ff\n";

/// Where in the chunked body the next byte falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first digit of a chunk size.
    SizeStart,
    Size,
    Extension,
    /// After the CR of a size line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// In the trailer section, at the start of a line.
    TrailerStart,
    TrailerLine,
    /// After a CR at the start of a trailer line: the LF ends the body.
    EndLf,
    Done,
}

/// Decoder state between reads. Holds no body bytes.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Size of the current chunk while it is being read, then the bytes of it still to come.
    remaining: u64,
    /// Bytes of the current extension or trailer section.
    overhead_bytes: u16,
    state: State,
}

/// One step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Body bytes.
    Data(&'a [u8]),
    /// Bytes of the trailer section, line ends included, the closing blank line excluded.
    Trailer(&'a [u8]),
    /// The body is complete; what follows it in the input, if anything, is not part of it.
    End,
}

/// The upstream's chunked framing is broken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ChunkError {
    /// A chunk size line held no hexadecimal number.
    #[error("chunk size is not a hexadecimal number")]
    Size,
    /// A chunk size did not fit 64 bits.
    #[error("chunk size overflows 64 bits")]
    Overflow,
    /// A line end was expected.
    #[error("chunk is not followed by CRLF")]
    LineEnd,
    /// Extensions or trailers longer than the limit.
    #[error("chunk extension or trailer section exceeds {MAX_OVERHEAD_BYTES} bytes")]
    Overhead,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { remaining: 0, overhead_bytes: 0, state: State::SizeStart }
    }
}

impl Decoder {
    /// Whether the last chunk and its trailer section have been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes the next piece from the front of `input`. `None`: all of `input` was consumed, and more is needed.
    ///
    /// # Errors
    /// When the framing is malformed; decoding cannot continue.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ChunkError> {
        while let Some(&byte) = input.first() {
            match self.state {
                State::Data => return Ok(Some(Piece::Data(self.take_data(input)))),
                State::TrailerStart | State::TrailerLine => {
                    if let Some(piece) = self.take_trailer(input)? {
                        return Ok(Some(piece));
                    }
                }
                State::EndLf => {
                    expect(byte, b'\n')?;
                    *input = &input[1..];
                    self.state = State::Done;
                    return Ok(Some(Piece::End));
                }
                State::Done => return Ok(Some(Piece::End)),
                _ => {
                    *input = &input[1..];
                    self.step(byte)?;
                }
            }
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match (self.state, byte) {
            (State::SizeStart, _) => {
                self.remaining = hex(byte).ok_or(ChunkError::Size)?;
                self.overhead_bytes = 0;
                State::Size
            }
            (State::Size | State::Extension, b'\r') => State::SizeLf,
            (State::Size, b';' | b' ' | b'\t') => State::Extension,
            (State::Size, _) => {
                let digit = hex(byte).ok_or(ChunkError::Size)?;
                let shifted = self.remaining.checked_mul(16).ok_or(ChunkError::Overflow)?;
                self.remaining = shifted + digit;
                State::Size
            }
            // A bare LF in an extension would let two parsers see two different chunks.
            (State::Extension, b'\n') => return Err(ChunkError::LineEnd),
            (State::Extension, _) => {
                self.add_overhead(1)?;
                State::Extension
            }
            (State::SizeLf, _) => {
                expect(byte, b'\n')?;
                if self.remaining == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, _) => {
                expect(byte, b'\r')?;
                State::DataLf
            }
            (_, _) => {
                expect(byte, b'\n')?;
                State::SizeStart
            }
        };
        Ok(())
    }

    fn take_data<'a>(&mut self, input: &mut &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        let (data, rest) = input.split_at(here);
        *input = rest;
        self.remaining -= here as u64;
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
        data
    }

    fn take_trailer<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ChunkError> {
        if self.state == State::TrailerStart && input[0] == b'\r' {
            *input = &input[1..];
            self.state = State::EndLf;
            return Ok(None);
        }
        let (end, next) = match memchr::memchr(b'\n', input) {
            Some(at) => (at + 1, State::TrailerStart),
            None => (input.len(), State::TrailerLine),
        };
        self.add_overhead(end)?;
        let (line, rest) = input.split_at(end);
        *input = rest;
        self.state = next;
        Ok(Some(Piece::Trailer(line)))
    }

    fn add_overhead(&mut self, bytes: usize) -> Result<(), ChunkError> {
        let total = usize::from(self.overhead_bytes) + bytes;
        self.overhead_bytes =
            u16::try_from(total).ok().filter(|total| *total <= MAX_OVERHEAD_BYTES).ok_or(ChunkError::Overhead)?;
        Ok(())
    }
}

fn expect(byte: u8, wanted: u8) -> Result<(), ChunkError> {
    if byte == wanted { Ok(()) } else { Err(ChunkError::LineEnd) }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Appends `data` to `out` as one chunk. Empty data appends nothing: an empty chunk would end the body.
pub fn encode(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for shift in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(data.len() >> (4 * shift)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Decoded {
        data: Vec<u8>,
        trailer: Vec<u8>,
        done: bool,
        error: Option<ChunkError>,
    }

    fn decode(parts: &[&[u8]]) -> Decoded {
        let mut decoder = Decoder::default();
        let mut decoded = Decoded::default();
        for part in parts {
            let mut input = *part;
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(Piece::Data(data))) => decoded.data.extend_from_slice(data),
                    Ok(Some(Piece::Trailer(line))) => decoded.trailer.extend_from_slice(line),
                    Ok(Some(Piece::End)) | Ok(None) => break,
                    Err(error) => {
                        decoded.error = Some(error);
                        return decoded;
                    }
                }
            }
        }
        decoded.done = decoder.is_done();
        decoded
    }

    /// A naive model that splits the text of a well-formed body, independent of the state machine.
    fn naive(mut wire: &[u8]) -> Decoded {
        let mut decoded = Decoded { done: true, ..Decoded::default() };
        loop {
            let line_end = wire.windows(2).position(|pair| pair == b"\r\n").expect("size line");
            let line = std::str::from_utf8(&wire[..line_end]).expect("text");
            let size = usize::from_str_radix(line.split([';', ' ']).next().expect("size"), 16).expect("hex");
            wire = &wire[line_end + 2..];
            if size == 0 {
                let end = wire.len() - 2;
                decoded.trailer.extend_from_slice(&wire[..end]);
                return decoded;
            }
            decoded.data.extend_from_slice(&wire[..size]);
            wire = &wire[size + 2..];
        }
    }

    fn check_every_split(wire: &[u8]) {
        let whole = naive(wire);
        for cut in 0..=wire.len() {
            assert_eq!(
                decode(&[&wire[..cut], &wire[cut..]]),
                whole,
                "cut at {cut} of {:?}",
                wire.escape_ascii().to_string()
            );
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decode(&bytes), whole);
    }

    #[test]
    fn each_chunk_may_have_its_own_extension() {
        let extension = "x".repeat(usize::from(MAX_OVERHEAD_BYTES));
        let mut decoder = Decoder::default();
        let wire = format!("1;{extension}\r\na\r\n1;{extension}\r\nb\r\n");
        let (mut input, mut data) = (wire.as_bytes(), Vec::new());
        while let Some(Piece::Data(piece)) = decoder.next(&mut input).expect("within the limit of each") {
            data.extend_from_slice(piece);
        }
        assert_eq!(data, b"ab");
        let longer = format!("1;{extension}x\r\na\r\n");
        assert_eq!(Decoder::default().next(&mut longer.as_bytes()), Err(ChunkError::Overhead));
    }

    #[test]
    fn every_split_of_the_corpus_agrees_with_the_naive_reading() {
        let corpus: &[&[u8]] = &[
            b"0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"A\r\n0123456789\r\n01\r\nx\r\n000\r\n\r\n",
            b"3;name=value;q=\"x\"\r\nabc\r\n0;last\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\nChecksum: 1\r\nOther: 2\r\n\r\n",
        ];
        for wire in corpus {
            check_every_split(wire);
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        let cases: &[(&[u8], ChunkError)] = &[
            (b"\r\n", ChunkError::Size),
            (b"g\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b"5\nhello", ChunkError::Size),
            (b"5\rx", ChunkError::LineEnd),
            (b"1\r\nab", ChunkError::LineEnd),
            (b"1;a\nb\r\n", ChunkError::LineEnd),
            (b"10000000000000000\r\n", ChunkError::Overflow),
            (b"0\r\n\rx", ChunkError::LineEnd),
        ];
        for (wire, error) in cases {
            assert_eq!(decode(&[wire]).error, Some(*error), "{:?}", wire.escape_ascii().to_string());
        }
        let endless = [b"1;".as_slice(), &[b'x'; 9000]].concat();
        assert_eq!(decode(&[&endless]).error, Some(ChunkError::Overhead));
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(2000)].concat();
        assert_eq!(decode(&[&trailers]).error, Some(ChunkError::Overhead));
    }

    #[test]
    fn truncated_bodies_are_not_done() {
        let wire = b"5\r\nhello\r\n0\r\n\r\n";
        for cut in 0..wire.len() {
            assert!(!decode(&[&wire[..cut]]).done, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..8)
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                encode(chunk, &mut wire);
            }
            wire.extend_from_slice(LAST_CHUNK);
            prop_assert_eq!(naive(&wire).data, chunks.concat());
            check_every_split(&wire);
        }

        #[test]
        fn random_bytes_never_panic_and_split_alike(
            wire in proptest::collection::vec(prop_oneof![Just(b'0'), Just(b'1'), Just(b'\r'), Just(b'\n'), Just(b';'), any::<u8>()], 0..40),
            cut in 0usize..40
        ) {
            let cut = cut.min(wire.len());
            prop_assert_eq!(decode(&[&wire]), decode(&[&wire[..cut], &wire[cut..]]));
        }
    }
}
