//! Classifies the response heads of an upstream, and finds where the body begins.

use pingora::http::{ResponseHeader, Version};

use super::head_reader::HeadReader;
use crate::failure::Failure;
use crate::headers;
use crate::wire::body::Body;

/// What to do with a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// 100: dropped, since the proxy answers expectations itself.
    Continue,
    /// 101: refused, since the request asked for no other protocol.
    Switching,
    /// Any other 1xx: forwarded to the client; another head follows.
    Interim,
    /// The final response.
    Final,
}

/// The body that follows a final head: its kind, its framing, and its first bytes as they were read.
#[derive(Debug)]
pub(crate) struct BodyStart {
    /// Whether it is an event stream that the request may become.
    pub(crate) is_stream: bool,
    pub(crate) body: Body,
    /// Whether there is a body.
    pub(crate) has_body: bool,
    pub(crate) leftover: Vec<u8>,
}

/// Whether a client of this version gets interim responses. HTTP/1.0 does not know them (RFC 9110 §15.2), and Pingora's session
/// cannot send them over HTTP/2.
pub(crate) fn takes_interim(version: Version) -> bool {
    version == Version::HTTP_11
}

impl HeadKind {
    pub(crate) fn of(head: &ResponseHeader) -> Self {
        match head.status.as_u16() {
            100 => Self::Continue,
            101 => Self::Switching,
            102..=199 => Self::Interim,
            _ => Self::Final,
        }
    }
}

impl BodyStart {
    /// `reader` has returned `head` and holds the bytes after it.
    ///
    /// # Errors
    /// When the body's framing cannot be relied on.
    pub(crate) fn of(
        head: &ResponseHeader,
        reader: HeadReader,
        is_head_request: bool,
        may_be_stream: bool,
    ) -> Result<Self, Failure> {
        let body = headers::response_body(head).map_err(|source| Failure::Invalid { source })?;
        let has_body = !headers::has_no_body(head.status.as_u16(), is_head_request);
        let is_stream = may_be_stream && has_body && headers::is_event_stream(head);
        Ok(Self { is_stream, body, has_body, leftover: reader.into_rest() })
    }
}
