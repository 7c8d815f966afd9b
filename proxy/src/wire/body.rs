//! The three ways an HTTP/1 response body is delimited (RFC 9112 §6.3), behind one decoder.

use super::chunked::{ChunkError, Decoder, Piece};

/// How the upstream's body ends, and how far it has been read.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// `Transfer-Encoding: chunked`.
    Chunked(Decoder),
    /// `Content-Length`: the bytes still to come.
    Length(u64),
    /// Neither: the body ends when the connection does.
    UntilClose,
}

impl Body {
    /// Whether the whole body has been read.
    pub fn is_complete(&self) -> bool {
        match self {
            Body::Chunked(decoder) => decoder.is_done(),
            Body::Length(remaining) => *remaining == 0,
            Body::UntilClose => false,
        }
    }

    /// Whether the connection closing here ends the body, rather than cutting it.
    pub fn may_end_here(&self) -> bool {
        self.is_complete() || matches!(self, Body::UntilClose)
    }

    /// Decodes the next piece from the front of `input`; see [`Decoder::next`].
    ///
    /// # Errors
    /// When chunked framing is broken.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ChunkError> {
        match self {
            Body::Chunked(decoder) => decoder.next(input),
            Body::Length(0) => Ok(Some(Piece::End)),
            Body::Length(remaining) => {
                let here = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                let (data, rest) = input.split_at(here);
                *input = rest;
                *remaining -= here as u64;
                Ok((!data.is_empty()).then_some(Piece::Data(data)))
            }
            Body::UntilClose => {
                let data = std::mem::take(input);
                Ok((!data.is_empty()).then_some(Piece::Data(data)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_body_ends_at_its_length_and_leaves_the_rest() {
        let mut body = Body::Length(3);
        let mut input = &b"abcdef"[..];
        assert_eq!(body.next(&mut input), Ok(Some(Piece::Data(b"abc"))));
        assert_eq!(body.next(&mut input), Ok(Some(Piece::End)));
        assert_eq!(input, b"def");
        assert!(body.is_complete());
    }

    #[test]
    fn only_a_close_delimited_body_may_end_with_the_connection() {
        assert!(Body::UntilClose.may_end_here());
        assert!(!Body::Length(1).may_end_here());
        assert!(!Body::Chunked(Decoder::default()).may_end_here());
    }
}
