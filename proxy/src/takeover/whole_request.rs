//! Requests that came whole in one read and hold nothing unusual: what browsers and most clients send for a stream.
//!
//! Anything else is Pingora's to read, refuse or carry, so this errs on that side: it takes less than the grammar allows.

use bytes::Bytes;
use http::HeaderValue;
use pingora::http::{IntoCaseHeaderName, Method, RequestHeader, Version};

/// Most header fields of a request that is read here.
const MAX_FIELDS: usize = 64;

/// A request whose head and body have been read to the last byte.
#[derive(Debug)]
pub(super) struct WholeRequest {
    pub(super) head: RequestHeader,
    pub(super) body: Bytes,
}

impl WholeRequest {
    /// The request that `bytes` are; `None` where they are less, or more, or anything that needs a second look: fields
    /// that change how the message is read or what is to be done with the connection.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = request.parse(&bytes) else { return None };
        let body = bytes.slice(length..);
        let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
        let target = request.path.filter(|target| target.starts_with('/'))?;
        if matches!(method, Method::HEAD | Method::CONNECT) || !is_plain(request.headers, &body) {
            return None;
        }
        let mut head = RequestHeader::build(method, target.as_bytes(), Some(request.headers.len())).ok()?;
        head.set_version(if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 });
        for field in request.headers.iter() {
            // Slices of the head: nothing is copied.
            let name = bytes.slice_ref(field.name.as_bytes()).into_case_header_name();
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
            head.append_header(name, value).ok()?;
        }
        Some(Self { head, body })
    }
}

/// Whether the fields say nothing of the connection but how long it is kept, name one host, and delimit exactly `body`.
fn is_plain(fields: &[httparse::Header<'_>], body: &[u8]) -> bool {
    const TELLING: [&str; 4] = ["transfer-encoding", "expect", "trailer", "proxy-connection"];
    let named = |name: &'static str| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let one = |name: &'static str| {
        let mut all = named(name);
        all.next().filter(|_| all.next().is_none())
    };
    let length = match named("content-length").count() {
        0 => Some(0),
        _ => one("content-length").and_then(|field| decimal(field.value)),
    };
    one("host").is_some_and(|host| !host.value.is_empty() && host.value.iter().all(is_of_a_host))
        // An offer of HTTP/2 is not taken (RFC 9113 §3.1), and leaves the request as plain as it is.
        && named("upgrade").all(|field| field.value.eq_ignore_ascii_case(b"h2c"))
        && TELLING.iter().all(|name| named(name).next().is_none())
        && length == Some(body.len())
}

/// What hosts and ports are usually made of; the grammar (RFC 3986 §3.2.2) has more.
fn is_of_a_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte)
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_is_read_with_its_names_as_they_were() {
        let bytes =
            b"POST /chat?a=%20b HTTP/1.1\r\nHost: a.b:80\r\nX-OWN: 1\r\nx-own: 2\r\nContent-Length: 3\r\n\r\nabc";
        let request = WholeRequest::parse(bytes).expect("plain");
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
            assert!(WholeRequest::parse(&whole[..cut]).is_none(), "cut at {cut}");
        }
        assert!(WholeRequest::parse(whole).is_some());
        assert!(WholeRequest::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n").is_none());
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
            assert!(WholeRequest::parse(format!("{head}\r\n\r\n").as_bytes()).is_none(), "{head:?}");
        }
    }
}
