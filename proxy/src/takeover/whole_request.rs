//! Requests that came whole in one read and hold nothing unusual: what browsers and most clients send for a stream.
//!
//! The rules of [`crate::wire::request`] hold here as everywhere. What does not meet them, and what meets them but has to be
//! read or answered in a way of its own, is Pingora's to read, refuse or carry.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::HeaderValue;
use pingora::http::{IntoCaseHeaderName, Method, RequestHeader, Version};

use crate::wire::request::{BodyLength, HeadLimits, MAX_FIELDS, RequestHead};

/// A request whose head and body have been read to the last byte.
#[derive(Debug)]
pub(super) struct WholeRequest {
    pub(super) head: RequestHeader,
    pub(super) body: Bytes,
    /// Fields that are not passed on.
    pub(super) dropped_fields: usize,
}

impl WholeRequest {
    /// The request that `bytes` are; `None` where they are less, or more, or anything that needs a second look: fields
    /// that change how the message is read or what is to be done with the connection.
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
            // Slices of the head: nothing is copied.
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
    fn a_plain_request_is_read_with_its_names_as_they_were() {
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
    fn nothing_but_all_of_it_is_taken() {
        let whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "cut at {cut}");
        }
        assert!(parse(whole).is_some());
        assert!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n").is_none());
    }

    #[test]
    fn what_is_unusual_is_left_to_others() {
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

    /// What the strict parser lets through, the library that holds heads takes; otherwise a request would be lost between them.
    #[test]
    fn every_byte_that_a_target_may_have_can_be_held() {
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
