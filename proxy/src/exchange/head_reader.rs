//! Finds response heads in the bytes of a connection, and keeps the bytes that came after the last one.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use pingora::ErrorType;
use pingora::http::{IntoCaseHeaderName, ResponseHeader, Version};
use pingora::prelude::{Error, OrErr, Result};

use crate::failure::Failure;
use crate::headers::transfer_codings;

/// Most header fields of one head, as with Pingora's own parser.
const MAX_FIELDS: usize = 256;

/// The bytes read and not yet returned.
#[derive(Debug)]
pub(crate) struct HeadReader {
    bytes: BytesMut,
    end: HeadEnd,
    /// The part of `bytes` that has been searched for the end of a head.
    searched: usize,
    /// Length of the returned head, which is still at the front of `bytes`.
    head: usize,
    /// Whether a byte has been received.
    fed: bool,
    limit: usize,
}

impl HeadReader {
    /// `limit` is the longest head, in bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), end: HeadEnd::default(), searched: 0, head: 0, fed: false, limit }
    }

    /// Whether nothing has been received yet.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.fed
    }

    /// Adds bytes that were read elsewhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.fed |= !bytes.is_empty();
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next head, if it is complete, and drops the previous one.
    ///
    /// # Errors
    /// When the head is malformed or too large.
    pub(crate) fn take(&mut self) -> std::result::Result<Option<Box<ResponseHeader>>, Failure> {
        let _ = self.bytes.split_to(std::mem::take(&mut self.head));
        let end = self.find_end();
        if end.unwrap_or(self.bytes.len()) > self.limit {
            return Err(Failure::HeadTooLarge { limit: self.limit });
        }
        let Some(length) = end else { return Ok(None) };
        self.head = length;
        let head = parse(&Bytes::copy_from_slice(&self.bytes[..length]));
        head.map(Some).map_err(|source| Failure::Broken { source })
    }

    /// The error of a connection that ended within a head.
    pub(crate) fn cut_short(&self) -> Box<Error> {
        let what = format!("after {} bytes of the response head", self.bytes.len());
        Error::explain(ErrorType::ConnectionClosed, what)
    }

    /// The bytes after the last head.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.bytes[self.head..].to_vec()
    }

    /// The last head and the bytes after it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    fn find_end(&mut self) -> Option<usize> {
        let from = self.searched;
        let fresh = &self.bytes[from..];
        match self.end.find(fresh) {
            Some(length) => {
                (self.end, self.searched) = (HeadEnd::default(), 0);
                Some(from + length)
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }
}

/// Finds the blank line that ends a head: LF, or CR LF, at the start of a line (RFC 9112 §2.2 lets a recipient take a
/// bare LF for a line end, and the parser does).
#[derive(Clone, Copy, Debug, Default)]
struct HeadEnd {
    in_head: bool,
    at_line_start: bool,
}

impl HeadEnd {
    /// The length of the part of `bytes` that completes the head; `None` when the head does not end in them.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.at_line_start => return Some(at + 1),
                // Blank lines before a head are skipped, as the parser does.
                b'\n' => self.at_line_start = self.in_head,
                b'\r' => {}
                _ => (self.in_head, self.at_line_start) = (true, false),
            }
        }
        None
    }
}

fn parse(bytes: &Bytes) -> Result<Box<ResponseHeader>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    let parsed = config.parse_response(&mut response, bytes).or_err(ErrorType::InvalidHTTPHeader, "response head")?;
    let (true, Some(status)) = (parsed.is_complete(), response.code) else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the response head has no status");
    };
    let mut head = ResponseHeader::build(status, Some(response.headers.len()))?;
    head.set_version(if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 });
    head.set_reason_phrase(response.reason)?;
    for field in response.headers.iter() {
        // Slices of the head, without a copy.
        let name = bytes.slice_ref(field.name.as_bytes()).into_case_header_name();
        head.append_header(name, value(bytes.slice_ref(field.value))?)?;
    }
    if head.headers.contains_key("transfer-encoding") {
        // "Transfer-Encoding overrides the Content-Length" (RFC 9112 §6.3), unless it says that there is no coding.
        let overridden =
            if transfer_codings(&head.headers).is_empty() { "transfer-encoding" } else { "content-length" };
        head.remove_header(overridden);
    }
    Ok(Box::new(head))
}

/// "A proxy or gateway that receives an obs-fold in a response message that is not within a "message/http" container MUST
/// … replace each received obs-fold with one or more SP octets" (RFC 9112 §5.2).
fn value(raw: Bytes) -> Result<HeaderValue> {
    let is_fold = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let unfolded = if raw.iter().any(is_fold) {
        raw.iter().map(|byte| if is_fold(byte) { b' ' } else { *byte }).collect::<Vec<u8>>().into()
    } else {
        raw
    };
    HeaderValue::from_maybe_shared(unfolded).or_err(ErrorType::InvalidHTTPHeader, "a header field's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1024;

    /// The statuses up to the final one, and the bytes after it.
    fn read(parts: &[&[u8]]) -> (Vec<u16>, Vec<u8>) {
        let mut reader = HeadReader::new(LIMIT);
        let mut statuses = Vec::new();
        for part in parts {
            reader.feed(part);
            while statuses.last().is_none_or(|status| *status < 200)
                && let Some(head) = reader.take().expect("a head")
            {
                statuses.push(head.status.as_u16());
            }
        }
        (statuses, reader.into_rest())
    }

    #[test]
    fn heads_are_found_at_every_split_and_the_rest_is_kept() {
        for wire in [
            &b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\ndata: x\n\n"[..],
            b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\nA: b\n\ndata: x\n\n",
            b"\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\ndata: x\n\n",
        ] {
            for cut in 0..wire.len() {
                let (statuses, rest) = read(&[&wire[..cut], &wire[cut..]]);
                assert_eq!(statuses, [103, 200], "cut at {cut}");
                assert_eq!(rest, b"data: x\n\n", "cut at {cut}");
            }
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        for wire in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nA b\r\n\r\n"] {
            let mut reader = HeadReader::new(LIMIT);
            reader.feed(wire);
            assert!(matches!(reader.take(), Err(Failure::Broken { .. })), "{}", wire.escape_ascii());
        }
    }

    /// Invariant: an upstream cannot make the proxy buffer more than the limit for a head. Mechanism: only a head whose end
    /// had not come was measured, against 1 MiB. Symptom: a megabyte for each request that such an upstream answers.
    #[test]
    fn a_head_is_limited_whether_or_not_its_end_has_come() {
        let head = |length: usize| {
            let (before, after) = (&b"HTTP/1.1 200 OK\r\nA: "[..], &b"\r\n\r\n"[..]);
            [before, &vec![b'x'; length - before.len() - after.len()], after].concat()
        };
        for (wire, fits) in [
            (head(LIMIT), true),
            (head(LIMIT + 1), false),
            (head(LIMIT + 5)[..=LIMIT].to_vec(), false),
            ([head(LIMIT), vec![b'y'; 5000]].concat(), true),
            (vec![b'\n'; LIMIT + 1], false),
        ] {
            let mut reader = HeadReader::new(LIMIT);
            reader.feed(&wire);
            match reader.take() {
                Ok(head) => assert!(fits && head.is_some(), "{} bytes", wire.len()),
                Err(Failure::HeadTooLarge { limit }) => assert!(!fits && limit == LIMIT, "{} bytes", wire.len()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn folded_values_are_unfolded() {
        let head = parse(&Bytes::from_static(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")).expect("a head");
        assert_eq!(head.headers.get("a").map(|value| value.as_bytes()), Some(&b"b   c"[..]));
    }

    #[test]
    fn names_keep_their_case_and_a_coding_overrides_a_length() {
        let wire =
            b"HTTP/1.0 200 Fine\r\nX-OWN: 1\r\nX-OWN: 2\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = parse(&Bytes::from_static(wire)).expect("a head");
        assert_eq!((head.version, head.get_reason_phrase()), (Version::HTTP_10, Some("Fine")));
        assert_eq!(head.headers.get_all("x-own").iter().count(), 2);
        assert!(!head.headers.contains_key("content-length"));
        let mut out = Vec::new();
        head.header_to_h1_wire(&mut out);
        assert!(String::from_utf8(out).expect("text").contains("X-OWN: 1\r\n"));
    }
}
