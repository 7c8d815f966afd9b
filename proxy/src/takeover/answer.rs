//! What the heads of an answer mean to a request that may become a stream.

use pingora::http::ResponseHeader;

use super::head_reader::HeadReader;
use crate::failure::Failure;
use crate::headers;
use crate::wire::body::Body;

/// What is to be done with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 100: for the proxy, which answers expectations itself.
    Continue,
    /// 101: for nobody, since nobody asked for another protocol.
    Switching,
    /// Any other of the 1xx: for the client, and another head follows.
    Interim,
    /// The answer proper.
    Final,
}

/// What a final head begins.
pub(super) enum Beginning {
    /// An event stream, and the bytes of it that came with the head. They have not been interpreted.
    Stream { body: Body, leftover: Vec<u8> },
    /// Anything else; this is what has been read of it, from the head on.
    Other(Vec<u8>),
}

impl Kind {
    pub(super) fn of(head: &ResponseHeader) -> Self {
        match head.status.as_u16() {
            100 => Self::Continue,
            101 => Self::Switching,
            102..=199 => Self::Interim,
            _ => Self::Final,
        }
    }
}

impl Beginning {
    /// `reader` has given out `head`, and holds what came behind it.
    ///
    /// # Errors
    /// When the body's framing cannot be relied on.
    pub(super) fn of(head: &ResponseHeader, reader: HeadReader) -> Result<Self, Failure> {
        let body = headers::response_body(head).map_err(|source| Failure::Invalid { source })?;
        Ok(match headers::is_event_stream(head) {
            true => Self::Stream { body, leftover: reader.into_rest() },
            false => Self::Other(reader.into_bytes()),
        })
    }
}
