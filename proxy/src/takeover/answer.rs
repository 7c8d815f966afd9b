//! What the heads of an answer mean to the request.

use pingora::http::ResponseHeader;

use super::head_reader::HeadReader;
use crate::failure::Failure;
use crate::headers;
use crate::wire::body::Body;

/// What is to be done with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// 100: for the proxy, which answers expectations itself.
    Continue,
    /// 101: for nobody, since nobody asked for another protocol.
    Switching,
    /// Any other of the 1xx: for the client, and another head follows.
    Interim,
    /// The answer proper.
    Final,
}

/// What a final head begins, and the bytes of the body that came with it. They have not been interpreted.
#[derive(Debug)]
pub(super) struct BodyStart {
    /// Whether it is the stream that was asked for.
    pub(super) is_stream: bool,
    pub(super) body: Body,
    /// Whether there is a body at all.
    pub(super) has_body: bool,
    pub(super) leftover: Vec<u8>,
}

impl HeadKind {
    pub(super) fn of(head: &ResponseHeader) -> Self {
        match head.status.as_u16() {
            100 => Self::Continue,
            101 => Self::Switching,
            102..=199 => Self::Interim,
            _ => Self::Final,
        }
    }
}

impl BodyStart {
    /// `reader` has given out `head`, and holds what came behind it.
    ///
    /// # Errors
    /// When the body's framing cannot be relied on.
    pub(super) fn of(
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
