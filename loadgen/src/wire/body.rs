//! One body decoder over the three ways a body can be framed.

use super::chunked::{ChunkError, Decoder};
use super::head::Framing;

/// The state of a body between two reads.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// Chunked transfer coding.
    Chunked(Decoder),
    /// This many bytes are still to come.
    Length(u64),
    /// Everything until the connection ends.
    UntilClose,
}

impl Body {
    /// A body that has not begun.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Chunked => Self::Chunked(Decoder::default()),
            Framing::Length(length) => Self::Length(length),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Decodes `input`, handing out content bytes, and returns how much of it belonged to this body.
    ///
    /// # Errors
    /// When the chunked coding is broken.
    pub fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        match self {
            Self::Chunked(decoder) => decoder.feed(input, sink),
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                sink(&input[..taken]);
                *left -= taken as u64;
                Ok(taken)
            }
            Self::UntilClose => {
                sink(input);
                Ok(input.len())
            }
        }
    }

    /// Whether all of the body has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Chunked(decoder) => decoder.is_done(),
            Self::Length(left) => *left == 0,
            Self::UntilClose => false,
        }
    }

    /// Whether the body would be whole if the connection ended now.
    #[must_use]
    pub fn may_end_here(&self) -> bool {
        matches!(self, Self::UntilClose) || self.is_done()
    }
}
