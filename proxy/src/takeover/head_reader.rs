//! Reads response heads from a connection, and keeps the bytes that came after the last one.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use pingora::ErrorType;
use pingora::http::{IntoCaseHeaderName, ResponseHeader, Version};
use pingora::prelude::{Error, OrErr, Result};
use tokio::io::{AsyncRead, ReadBuf};

use crate::headers::transfer_codings;

/// Size of one read, in bytes.
const READ_BYTES: usize = 4 * 1024;

/// Longest response head, in bytes, as with Pingora's own parser but for its rounding.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Most header fields of one head, as with Pingora's own parser.
const MAX_FIELDS: usize = 256;

/// The bytes read and not yet returned.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    bytes: BytesMut,
    end: HeadEnd,
    /// The part of `bytes` that has been searched for the end of a head.
    searched: usize,
    /// Length of the returned head, which is still at the front of `bytes`.
    head: usize,
    /// Whether a byte has been received.
    fed: bool,
}

impl HeadReader {
    /// Reads the next head from `connection`.
    ///
    /// # Errors
    /// When the connection ends or fails within a head, or the head is malformed.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> Poll<Result<Box<ResponseHeader>>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            if let Some(head) = self.take()? {
                return Poll::Ready(Ok(head));
            }
            let mut buffer = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut *connection).poll_read(cx, &mut buffer));
            read.or_err(ErrorType::ReadError, "reading the response head")?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(self.cut_short()));
            }
            self.feed(buffer.filled());
        }
    }

    /// Whether nothing has been received yet.
    pub(super) fn is_untouched(&self) -> bool {
        !self.fed
    }

    /// Adds bytes that were read elsewhere.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.fed = true;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next head, if it is complete, and drops the previous one.
    ///
    /// # Errors
    /// When the head is malformed or too large.
    pub(super) fn take(&mut self) -> Result<Option<Box<ResponseHeader>>> {
        let _ = self.bytes.split_to(std::mem::take(&mut self.head));
        if let Some(length) = self.find_end() {
            self.head = length;
            return parse(&Bytes::copy_from_slice(&self.bytes[..length])).map(Some);
        }
        if self.bytes.len() > MAX_HEAD_BYTES {
            let what = format!("a response head of more than {MAX_HEAD_BYTES} bytes");
            return Error::e_explain(ErrorType::InvalidHTTPHeader, what);
        }
        Ok(None)
    }

    /// The error of a connection that ended within a head.
    pub(super) fn cut_short(&self) -> Box<Error> {
        let what = format!("after {} bytes of the response head", self.bytes.len());
        Error::explain(ErrorType::ConnectionClosed, what)
    }

    /// The bytes after the last head.
    pub(super) fn into_rest(self) -> Vec<u8> {
        self.bytes[self.head..].to_vec()
    }

    /// The last head and the bytes after it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
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
    use std::future::poll_fn;

    use super::*;

    async fn read(parts: &[&[u8]]) -> (Vec<u16>, Vec<u8>) {
        let mut reader = HeadReader::default();
        let mut connection = tokio_test_reader(parts);
        let mut statuses = Vec::new();
        loop {
            let head = poll_fn(|cx| reader.poll_next(cx, &mut connection)).await.expect("a head");
            statuses.push(head.status.as_u16());
            if head.status.as_u16() >= 200 {
                return (statuses, reader.into_rest());
            }
        }
    }

    fn tokio_test_reader(parts: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let (mut near, far) = tokio::io::duplex(64);
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        tokio::spawn(async move {
            for part in parts {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut near, &part).await;
                tokio::task::yield_now().await;
            }
        });
        far
    }

    #[tokio::test]
    async fn heads_are_found_at_every_split_and_the_rest_is_kept() {
        for wire in [
            &b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\ndata: x\n\n"[..],
            b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\nA: b\n\ndata: x\n\n",
            b"\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\ndata: x\n\n",
        ] {
            for cut in 0..wire.len() {
                let (statuses, mut rest) = read(&[&wire[..cut], &wire[cut..]]).await;
                assert_eq!(statuses, [103, 200], "cut at {cut}");
                // The rest is still on the connection.
                rest.extend_from_slice(&b"data: x\n\n"[rest.len()..]);
                assert_eq!(rest, b"data: x\n\n", "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn malformed_heads_are_refused() {
        for wire in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
            b"HTTP/1.1 200 O",
        ] {
            let mut connection = tokio_test_reader(&[wire]);
            let mut reader = HeadReader::default();
            let error = poll_fn(|cx| reader.poll_next(cx, &mut connection)).await;
            assert!(error.is_err(), "{:?}", wire.escape_ascii().to_string());
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
