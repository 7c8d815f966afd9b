//! Requests that are received whole and contain nothing unusual: what browsers and most clients send for a stream.
//!
//! The rules of [`crate::wire::request`] apply here as everywhere. Requests that violate them, or that need special
//! handling, are left to Pingora to read, refuse or forward.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::HeaderValue;
use pingora::http::{IntoCaseHeaderName, Method, RequestHeader, Version};

use crate::wire::request::{BodyLength, HeadLimits, MAX_FIELDS, RequestHead};

/// A request whose head and body have been read completely.
#[derive(Debug)]
pub(super) struct WholeRequest {
    pub(super) head: RequestHeader,
    pub(super) body: Bytes,
    /// Fields that are not forwarded.
    pub(super) dropped_fields: usize,
}

impl WholeRequest {
    /// Parses `bytes` as exactly one plain request; `None` if they are less or more, or have fields that change the
    /// framing or the handling of the connection.
    pub(super) fn parse(bytes: &[u8], limits: &HeadLimits) -> Option<Self> {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let request = RequestHead::parse(&bytes, limits, &mut fields).ok()??;
        let body = bytes.slice(request.length..);
        let method = Method::from_bytes(request.method.as_bytes()).ok()?;
        let is_whole = request.body == BodyLength::Length(body.len() as u64);
        if method == Method::HEAD || !request.target.starts_with(b"/") || !is_whole || !request.is_plain {
            return None;
        }
        let mut head = RequestHeader::build(method, request.target, Some(request.fields().count())).ok()?;
        head.set_version(if request.is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 });
        for field in request.fields() {
            // Slices of the head, without a copy.
            let name = bytes.slice_ref(field.name.as_bytes()).into_case_header_name();
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
            head.append_header(name, value).ok()?;
        }
        Some(Self { head, body, dropped_fields: request.dropped_fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Option<WholeRequest> {
        WholeRequest::parse(bytes, &HeadLimits::default())
    }

    #[test]
    fn a_plain_request_keeps_the_case_of_its_field_names() {
        let bytes =
            b"POST /chat?a=%20b HTTP/1.1\r\nHost: a.b:80\r\nX-OWN: 1\r\nx-own: 2\r\nContent-Length: 3\r\n\r\nabc";
        let request = parse(bytes).expect("plain");
        assert_eq!((request.head.method.as_str(), request.head.raw_path()), ("POST", &b"/chat?a=%20b"[..]));
        assert_eq!(request.head.headers.get_all("x-own").iter().count(), 2);
        assert_eq!(request.body, "abc");
        let mut wire = Vec::new();
        request.head.header_to_h1_wire(&mut wire);
        assert!(String::from_utf8(wire).expect("text").contains("X-OWN: 1\r\nx-own: 2\r\n"));
    }

    #[test]
    fn only_exactly_one_request_is_accepted() {
        let whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "cut at {cut}");
        }
        assert!(parse(whole).is_some());
        assert!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n").is_none());
    }

    #[test]
    fn unusual_requests_are_left_to_pingora() {
        for head in [
            "HEAD / HTTP/1.1\r\nHost: a",
            "CONNECT a:80 HTTP/1.1\r\nHost: a",
            "OPTIONS * HTTP/1.1\r\nHost: a",
            "GET http://a/ HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost:",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a/b",
            "GET / HTTP/1.1\r\nHost: a@b",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +0",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0",
            "GET / HTTP/1.1\r\nHost: a\r\n folded",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/2.0\r\nHost: a",
            "PRI * HTTP/2.0",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(parse(format!("{head}\r\n\r\n").as_bytes()).is_none(), "{head:?}");
        }
    }

    /// Every target that the strict parser accepts is valid for `RequestHeader`, too; otherwise the request could not
    /// be forwarded.
    #[test]
    fn every_byte_that_a_target_may_have_is_valid_for_request_header() {
        for byte in 0..=255u8 {
            for before in [&b"/"[..], b"/?"] {
                let line = [b"GET ", before, &[byte], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
                let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
                let parsed = RequestHead::parse(&line, &HeadLimits::default(), &mut fields).is_ok();
                let target = [before, &[byte]].concat();
                let held = RequestHeader::build("GET", &target, None).is_ok();
                assert!(!parsed || held, "{byte:#x} in {}", before.escape_ascii());
                assert_eq!(parsed, parse(&line).is_some(), "{byte:#x} in {}", before.escape_ascii());
            }
        }
    }
}
