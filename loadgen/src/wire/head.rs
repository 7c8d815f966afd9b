//! Reads a response head (with `httparse`) down to what a stream's client needs to know.

use thiserror::Error;

/// A head may have this many fields.
pub const MAX_FIELDS: usize = 100;

/// A head may be this long; what is longer is refused rather than collected.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Why a head cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    /// Not HTTP/1.x.
    #[error("malformed response head")]
    Malformed,
    /// More fields than [`MAX_FIELDS`].
    #[error("response head with more than {MAX_FIELDS} fields")]
    TooManyFields,
    /// Longer than [`MAX_HEAD_BYTES`].
    #[error("response head longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
}

/// How the body's end is marked (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By the chunked transfer coding.
    Chunked,
    /// By its length in bytes.
    Length(u64),
    /// By the connection's end.
    UntilClose,
}

/// A response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Whether the media type is `text/event-stream`.
    pub is_event_stream: bool,
    /// The content coding, unless there is none.
    pub coding: Option<&'static str>,
    /// How the body ends.
    pub framing: Framing,
    /// Length of the head itself: the body starts here.
    pub bytes: usize,
}

/// Reads the head at the start of `input`; `None` while it is incomplete. Interim (1xx) heads are returned like any other.
///
/// # Errors
/// When it can no longer become a valid head.
pub fn parse(input: &[u8]) -> Result<Option<Head>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input).map_err(read_error)? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial if input.len() >= MAX_HEAD_BYTES => return Err(HeadError::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.ok_or(HeadError::Malformed)?;
    Ok(Some(Head {
        status,
        is_event_stream: is_event_stream(response.headers),
        coding: content_coding(values(response.headers, "content-encoding")),
        framing: framing(status, response.headers)?,
        bytes,
    }))
}

/// The first content coding (RFC 9110 §8.4) that is more than `identity` in the values of `Content-Encoding`, by its name;
/// `other` when it is none of those in use.
pub fn content_coding<'v>(values: impl Iterator<Item = &'v str>) -> Option<&'static str> {
    const KNOWN: [&str; 7] = ["br", "compress", "dcb", "dcz", "deflate", "gzip", "zstd"];
    let mut named = values.flat_map(|value| value.split(',')).map(str::trim);
    let coding = named.find(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"))?;
    let coding = coding.strip_prefix("x-").unwrap_or(coding);
    Some(KNOWN.into_iter().find(|known| coding.eq_ignore_ascii_case(known)).unwrap_or("other"))
}

/// Whether a `Content-Type` is `text/event-stream`, whatever its parameters.
#[must_use]
pub fn names_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("text/event-stream")
}

fn read_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        _ => HeadError::Malformed,
    }
}

fn values<'h>(headers: &'h [httparse::Header<'_>], name: &str) -> impl Iterator<Item = &'h str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.filter_map(|header| std::str::from_utf8(header.value).ok().map(str::trim))
}

fn value<'h>(headers: &'h [httparse::Header<'_>], name: &str) -> Option<&'h str> {
    values(headers, name).next()
}

fn is_event_stream(headers: &[httparse::Header<'_>]) -> bool {
    value(headers, "content-type").is_some_and(names_event_stream)
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, HeadError> {
    if status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    if let Some(codings) = value(headers, "transfer-encoding") {
        let last = codings.rsplit(',').next().unwrap_or_default().trim();
        return Ok(if last.eq_ignore_ascii_case("chunked") { Framing::Chunked } else { Framing::UntilClose });
    }
    match value(headers, "content-length") {
        Some(length) => Ok(Framing::Length(length.parse().map_err(|_| HeadError::Malformed)?)),
        None => Ok(Framing::UntilClose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Head>, HeadError> {
        parse(text.as_bytes())
    }

    #[test]
    fn media_type_and_framing_are_read_in_any_case() {
        let text = "HTTP/1.1 200 OK\r\ncontent-TYPE: Text/Event-Stream; charset=utf-8\r\nTRANSFER-encoding: Chunked\r\n\r\ndata";
        let head = read(text).expect("valid").expect("complete");
        let (status, is_event_stream, coding, framing) = (200, true, None, Framing::Chunked);
        assert_eq!(head, Head { status, is_event_stream, coding, framing, bytes: text.len() - 4 });
    }

    #[test]
    fn framing_follows_the_status_and_the_headers() {
        for (text, framing) in [
            ("HTTP/1.0 200 OK\r\n\r\n", Framing::UntilClose),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Framing::Length(12)),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Framing::Chunked),
        ] {
            assert_eq!(read(text).expect("valid").expect("complete").framing, framing, "{text}");
        }
    }

    #[test]
    fn a_content_coding_is_named_unless_it_is_none() {
        for (fields, coding) in [
            ("", None),
            ("Content-Encoding: identity\r\n", None),
            ("Content-Encoding: \r\n", None),
            ("content-encoding: GZIP\r\n", Some("gzip")),
            ("Content-Encoding: x-gzip\r\n", Some("gzip")),
            ("Content-Encoding: identity, br\r\n", Some("br")),
            ("Content-Encoding: identity\r\nContent-Encoding: zstd\r\n", Some("zstd")),
            ("Content-Encoding: rot13\r\n", Some("other")),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(read(&text).expect("valid").expect("complete").coding, coding, "{fields}");
        }
    }

    #[test]
    fn every_prefix_of_a_head_is_incomplete() {
        let text = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(read(&text[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert_eq!(read("SSH-2.0-OpenSSH\r\n"), Err(HeadError::Malformed));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Err(HeadError::Malformed));
        let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
        assert!(matches!(read(&fields(MAX_FIELDS)), Ok(Some(_))));
        assert_eq!(read(&fields(MAX_FIELDS + 1)), Err(HeadError::TooManyFields));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES));
        assert_eq!(read(&endless), Err(HeadError::TooLong));
    }
}
