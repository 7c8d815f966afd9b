//! The bytes of a heartbeat, rendered once from its style and payload.

use thiserror::Error;

/// What a heartbeat looks like to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HeartbeatStyle {
    /// A comment and a blank line, `:payload\n\n`. Invisible to `EventSource`.
    #[default]
    Comment,
    /// A comment line alone, `:payload\n`, for decoders that dispatch an empty event on a blank line.
    CommentLine,
    /// A named event, `event: heartbeat\ndata: payload\n\n`, for clients that watch for it by name.
    Event,
    /// An unnamed event, `data: payload\n\n`; the payload must be valid for the stream's readers.
    Data,
}

/// A rendered heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    bytes: Box<[u8]>,
}

/// Why a heartbeat cannot be rendered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// A line end in the payload would end the comment or the event early.
    #[error("the payload holds a line end; write it on one line")]
    LineEnd,
    /// An event without data is never dispatched, so it would be invisible to the clients it is meant for.
    #[error("style `data` needs a payload that the stream's readers understand, for example `{{}}`")]
    EmptyData,
}

impl Heartbeat {
    /// Renders a heartbeat.
    ///
    /// # Errors
    /// When the payload cannot stand in one line, or an unnamed event would be empty.
    ///
    /// ```
    /// use sse_proxy::{Heartbeat, HeartbeatError, HeartbeatStyle};
    ///
    /// let heartbeat = Heartbeat::new(HeartbeatStyle::Event, "{}")?;
    /// assert_eq!(heartbeat.bytes(), b"event: heartbeat\ndata: {}\n\n");
    /// assert_eq!(Heartbeat::new(HeartbeatStyle::Comment, "a\nb"), Err(HeartbeatError::LineEnd));
    /// # Ok::<(), HeartbeatError>(())
    /// ```
    pub fn new(style: HeartbeatStyle, payload: &str) -> Result<Self, HeartbeatError> {
        if payload.contains(['\n', '\r']) {
            return Err(HeartbeatError::LineEnd);
        }
        let text = match style {
            HeartbeatStyle::Comment => format!(":{}\n\n", spaced(payload)),
            HeartbeatStyle::CommentLine => format!(":{}\n", spaced(payload)),
            HeartbeatStyle::Event => format!("event: heartbeat\ndata: {payload}\n\n"),
            HeartbeatStyle::Data if payload.is_empty() => return Err(HeartbeatError::EmptyData),
            HeartbeatStyle::Data => format!("data: {payload}\n\n"),
        };
        Ok(Self { bytes: text.into_bytes().into_boxed_slice() })
    }

    /// The bytes to write into the stream's body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Heartbeat {
    /// The shortest comment, `:\n\n`.
    fn default() -> Self {
        Self { bytes: Box::from(&b":\n\n"[..]) }
    }
}

fn spaced(payload: &str) -> String {
    if payload.is_empty() { String::new() } else { format!(" {payload}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Boundary;

    fn rendered(style: HeartbeatStyle, payload: &str) -> String {
        String::from_utf8(Heartbeat::new(style, payload).expect("valid").bytes().to_vec()).expect("text")
    }

    #[test]
    fn each_style_has_its_bytes() {
        assert_eq!(rendered(HeartbeatStyle::Comment, ""), ":\n\n");
        assert_eq!(rendered(HeartbeatStyle::Comment, "keep-alive"), ": keep-alive\n\n");
        assert_eq!(rendered(HeartbeatStyle::CommentLine, ""), ":\n");
        assert_eq!(rendered(HeartbeatStyle::Event, "{}"), "event: heartbeat\ndata: {}\n\n");
        assert_eq!(rendered(HeartbeatStyle::Data, "{}"), "data: {}\n\n");
        assert_eq!(Heartbeat::default().bytes(), b":\n\n");
    }

    #[test]
    fn a_heartbeat_ends_where_another_may_follow() {
        for style in [HeartbeatStyle::Comment, HeartbeatStyle::CommentLine, HeartbeatStyle::Event, HeartbeatStyle::Data]
        {
            let mut boundary = Boundary::default();
            boundary.scan(rendered(style, "x").as_bytes());
            assert!(boundary.is_boundary(), "{style:?}");
        }
    }

    #[test]
    fn payloads_that_would_break_the_stream_are_refused() {
        assert_eq!(Heartbeat::new(HeartbeatStyle::Comment, "a\nb"), Err(HeartbeatError::LineEnd));
        assert_eq!(Heartbeat::new(HeartbeatStyle::Data, ""), Err(HeartbeatError::EmptyData));
    }
}
