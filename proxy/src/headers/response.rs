//! Responses: detection of event streams, body framing, and the head that goes to the client.

use http::{HeaderName, HeaderValue, header};
use pingora::http::{HMap, ResponseHeader, Version};
use pingora::prelude::Result;
use thiserror::Error;

use super::control::strip_response_control;
use super::fields::{EVENT_STREAM, INCREMENTAL, media_type, strip_response};
use super::via;
use crate::wire::body::Body;
use crate::wire::chunked::Decoder;

static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The response's framing cannot be relied on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FramingError {
    /// A transfer coding other than chunked, or chunked more than once. Holds the field's value.
    #[error("its Transfer-Encoding is `{0}`, and only `chunked` can be read")]
    TransferCoding(String),
    /// "A server MUST NOT send a Transfer-Encoding header field in any response with a status code of 1xx or 204"
    /// (RFC 9112 §6.1).
    #[error("it has the status {0}, which has no body, and a Transfer-Encoding")]
    CodingWithoutBody(u16),
    /// A content length that is not a number, or several that differ. Holds the field's value.
    #[error("its Content-Length is `{0}`, which is not one number")]
    ContentLength(String),
}

/// How the body of a page goes to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFraming {
    /// No body.
    NoBody,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection, or the HTTP/2 stream, ends.
    UntilEnd,
}

/// Whether a response is an event stream: a successful status with a body, and the media type.
///
/// `EventSource` takes any status but 200 for a failure (WHATWG HTML §9.2.3); programs that read a stream with `fetch` do not,
/// and frameworks answer a POST with 201. 204 and 205 have no body, and 206 is a part of one.
pub fn is_event_stream(response: &ResponseHeader) -> bool {
    let status = response.status.as_u16();
    (200..300).contains(&status)
        && !matches!(status, 204..=206)
        && content_type(response).is_some_and(|value| media_type(value).eq_ignore_ascii_case(EVENT_STREAM))
}

/// The first media type, if there are several.
fn content_type(response: &ResponseHeader) -> Option<&str> {
    let values = response.headers.get_all(header::CONTENT_TYPE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).find(|value| !value.is_empty())
}

/// Whether the body has no content coding, so that heartbeats can be added to it.
pub fn is_identity(response: &ResponseHeader) -> bool {
    response.headers.get_all(header::CONTENT_ENCODING).iter().all(|value| {
        value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(|coding| {
            coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") || coding.eq_ignore_ascii_case(b"none")
        })
    })
}

/// Whether a response has no body whatever its fields say (RFC 9112 §6.3). 205 "MUST NOT" have one (RFC 9110 §15.3.6).
pub fn has_no_body(status: u16, is_head_request: bool) -> bool {
    is_head_request || matches!(status, 100..=199 | 204 | 205 | 304)
}

/// The transfer codings of a message, in lower case. `identity` is ignored: RFC 7230 removed it, and some backends
/// still send it.
pub fn transfer_codings(headers: &HMap) -> Vec<String> {
    headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect()
}

/// How the body of a response is delimited (RFC 9112 §6.3), if the request and the status allow one.
///
/// # Errors
/// When the framing fields are ambiguous, so that the proxy and the client may read them differently.
pub fn response_body(response: &ResponseHeader) -> std::result::Result<Body, FramingError> {
    let status = response.status.as_u16();
    let codings = match response.headers.contains_key(header::TRANSFER_ENCODING) {
        true => transfer_codings(&response.headers),
        false => Vec::new(),
    };
    match codings.as_slice() {
        [] => {}
        _ if status == 204 || status < 200 => return Err(FramingError::CodingWithoutBody(status)),
        [only] if only == "chunked" => return Ok(Body::Chunked(Decoder::default())),
        _ => return Err(FramingError::TransferCoding(codings.join(", "))),
    }
    if !response.headers.contains_key(header::CONTENT_LENGTH) {
        return Ok(Body::UntilClose);
    }
    let values: Vec<_> = response.headers.get_all(header::CONTENT_LENGTH).iter().collect();
    // "If … all values in the list are valid, and all values in the list are the same" it counts once (RFC 9112 §6.3).
    let mut lengths = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(length);
    let first = lengths.next().flatten();
    match first {
        Some(length) if lengths.all(|other| other == first) => Ok(Body::Length(length)),
        _ => {
            let said: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            Err(FramingError::ContentLength(said.join(", ")))
        }
    }
}

fn length(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?.trim_matches([' ', '\t']);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Whether the upstream keeps its connection for another request once this response has been read.
pub fn keeps_connection(response: &ResponseHeader) -> bool {
    let mut options = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    response.version == Version::HTTP_11 && !options.any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// The head of an interim response as it goes to the client, without fields that describe a body (RFC 9110 §15.2).
pub fn interim_response(response: &mut ResponseHeader) {
    strip_response(response);
    response.remove_header("content-length");
}

/// The head of a page as it goes to the client: without connection fields, framed as `framing`. Keeps `Trailer` only if
/// `trailers` can be delivered.
///
/// # Errors
/// When a header cannot be built.
pub fn page_response(response: &mut ResponseHeader, framing: PageFraming, trailers: bool) -> Result<()> {
    let announced: Vec<_> = response.headers.get_all("trailer").iter().cloned().collect();
    let received = response.version;
    strip_response(response);
    if trailers {
        for fields in announced {
            response.append_header("Trailer", fields)?;
        }
    }
    match framing {
        PageFraming::Length(length) => response.insert_header("Content-Length", length)?,
        PageFraming::NoBody => match response.status.as_u16() {
            204 => drop(response.remove_header("content-length")),
            205 => response.insert_header("Content-Length", 0)?,
            // The length that the body would have, for HEAD and 304.
            _ => match response_body(response) {
                Ok(Body::Length(length)) => response.insert_header("Content-Length", length)?,
                _ => drop(response.remove_header("content-length")),
            },
        },
        PageFraming::Chunked => {
            response.remove_header("content-length");
            response.insert_header("Transfer-Encoding", "chunked")?;
        }
        PageFraming::UntilEnd => drop(response.remove_header("content-length")),
    }
    via::add_to_response(response, received)?;
    response.set_version(Version::HTTP_11);
    Ok(())
}

/// The head of a stream as it goes to the client: without connection fields, and without the length, since heartbeats
/// may be added. Adds fields that keep proxies and caches in front from buffering.
///
/// # Errors
/// When a header cannot be built.
pub fn stream_response(response: &mut ResponseHeader, chunked: bool) -> Result<()> {
    strip_response(response);
    response.remove_header(&header::CONTENT_LENGTH);
    via::add_to_response(response, response.version)?;
    response.set_version(Version::HTTP_11);
    if chunked {
        response.insert_header("Transfer-Encoding", HeaderValue::from_static("chunked"))?;
    }
    if !response.headers.contains_key(&X_ACCEL_BUFFERING) {
        response.insert_header("X-Accel-Buffering", HeaderValue::from_static("no"))?;
    }
    let (name, value) = INCREMENTAL;
    response.insert_header(name, value)?;
    let cache_control = with_directives(response, &["no-cache", "no-transform"]);
    response.insert_header("Cache-Control", cache_control)?;
    Ok(())
}

/// The head of the response to an upgrade, whose framing is kept. An accepted upgrade (101) keeps its connection
/// fields.
///
/// # Errors
/// When a header cannot be built.
pub fn upgrade_response(response: &mut ResponseHeader) -> Result<()> {
    strip_response_control(response);
    if response.status != 101 {
        let coding = response.headers.get("transfer-encoding").cloned();
        let required = response.headers.get("upgrade").filter(|_| response.status == 426).cloned();
        strip_response(response);
        for (name, value) in [("Transfer-Encoding", coding), ("Upgrade", required)] {
            if let Some(value) = value {
                response.insert_header(name, value)?;
            }
        }
    }
    via::add_to_response(response, response.version)
}

/// Appends a response head in the format of HTTP/1.1.
pub fn write_response(response: &ResponseHeader, out: &mut Vec<u8>) {
    // Enough for most: one allocation instead of one for each doubling.
    out.reserve(512);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(response.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(response.get_reason_phrase().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    response.header_to_h1_wire(out);
    out.extend_from_slice(b"\r\n");
}

/// `Cache-Control` with the missing directives of `wanted` appended.
fn with_directives(response: &ResponseHeader, wanted: &[&str]) -> String {
    let present = || {
        let values = response.headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|directive| !directive.is_empty())
    };
    let missing =
        wanted.iter().copied().filter(|want| !present().any(|directive| directive.eq_ignore_ascii_case(want)));
    let mut list = String::with_capacity(64);
    for directive in present().chain(missing) {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(directive);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).expect("response");
        for (name, value) in headers {
            response.append_header((*name).to_owned(), *value).expect("header");
        }
        response
    }

    fn value(headers: &pingora::http::HMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn a_stream_is_a_success_of_its_media_type() {
        let stream = [("Content-Type", "text/event-stream; charset=utf-8")];
        for status in [200, 201, 202, 203, 207] {
            assert!(is_event_stream(&response(status, &stream)), "{status}");
        }
        for status in [204, 205, 206, 304, 401, 503] {
            assert!(!is_event_stream(&response(status, &stream)), "{status}");
        }
        let types: [(&[&str], bool); 8] = [
            (&["application/json"], false),
            (&[], false),
            (&["text/event-stream, text/html"], true),
            (&["text/html, text/event-stream"], false),
            (&["", "text/event-stream"], true),
            (&["text/event-stream", "text/html"], true),
            (&["text/html", "text/event-stream"], false),
            (&[", text/event-stream"], true),
        ];
        for (values, expected) in types {
            let fields: Vec<_> = values.iter().map(|value| ("Content-Type", *value)).collect();
            assert_eq!(is_event_stream(&response(200, &fields)), expected, "{values:?}");
        }
    }

    #[test]
    fn only_a_real_coding_hides_the_events() {
        for plain in ["", "identity", "None", "identity, none", "Identity,"] {
            assert!(is_identity(&response(200, &[("Content-Encoding", plain)])), "{plain:?}");
        }
        for coded in ["gzip", "identity, gzip", "br", "nonesuch"] {
            assert!(!is_identity(&response(200, &[("Content-Encoding", coded)])), "{coded:?}");
        }
    }

    #[test]
    fn framing_is_read_as_the_client_would() {
        assert!(matches!(response_body(&response(200, &[])), Ok(Body::UntilClose)));
        assert!(matches!(response_body(&response(200, &[("Content-Length", "7")])), Ok(Body::Length(7))));
        let chunked = [("Transfer-Encoding", "chunked"), ("Content-Length", "7")];
        assert!(matches!(response_body(&response(200, &chunked)), Ok(Body::Chunked(_))));
        let identity = [("Transfer-Encoding", "identity"), ("Content-Length", "7")];
        assert!(matches!(response_body(&response(200, &identity)), Ok(Body::Length(7))));
        for bad in ["gzip", "gzip, chunked", "chunked, chunked", "xchunked"] {
            let framing = response_body(&response(200, &[("Transfer-Encoding", bad)]));
            assert_eq!(framing.err(), Some(FramingError::TransferCoding(bad.to_owned())));
        }
        let twice = [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")];
        assert!(matches!(response_body(&response(200, &twice)), Err(FramingError::TransferCoding(_))));
        let none = response_body(&response(204, &[("Transfer-Encoding", "chunked")]));
        assert_eq!(none.err(), Some(FramingError::CodingWithoutBody(204)));
        for bad in ["-1", "+1", "1, 2", "99999999999999999999", "", "1,"] {
            let framing = response_body(&response(200, &[("Content-Length", bad)]));
            assert!(matches!(framing, Err(FramingError::ContentLength(_))), "{bad:?}");
        }
        assert!(matches!(response_body(&response(200, &[("Content-Length", "5, 5")])), Ok(Body::Length(5))));
        let differ = [("Content-Length", "1"), ("Content-Length", "2")];
        assert!(matches!(response_body(&response(200, &differ)), Err(FramingError::ContentLength(_))));
    }

    #[test]
    fn connection_fields_of_a_page_are_removed() {
        let fields = [
            ("Connection", "keep-alive, X-Hop"),
            ("Keep-Alive", "timeout=5"),
            ("Upgrade", "h2"),
            ("Proxy-Connection", "x"),
            ("X-Hop", "1"),
            ("TE", "trailers"),
            ("Trailer", "Checksum"),
            ("Content-Length", "5"),
            ("Content-Length", "5"),
            ("X-Own", "1"),
        ];
        for (status, framing, trailers, kept) in [
            (200, PageFraming::Length(5), false, "content-length: 5\nvia: 1.1 sse-proxy\nx-own: 1"),
            (
                200,
                PageFraming::Chunked,
                true,
                "trailer: Checksum\ntransfer-encoding: chunked\nvia: 1.1 sse-proxy\nx-own: 1",
            ),
            (200, PageFraming::UntilEnd, false, "via: 1.1 sse-proxy\nx-own: 1"),
            (200, PageFraming::NoBody, false, "content-length: 5\nvia: 1.1 sse-proxy\nx-own: 1"),
            (204, PageFraming::NoBody, false, "via: 1.1 sse-proxy\nx-own: 1"),
            (205, PageFraming::NoBody, false, "content-length: 0\nvia: 1.1 sse-proxy\nx-own: 1"),
        ] {
            let mut head = response(status, &fields);
            page_response(&mut head, framing, trailers).expect("head");
            let mut lines: Vec<_> =
                head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
            lines.sort();
            assert_eq!(lines.join("\n"), kept, "{status} {framing:?}");
        }
    }

    #[test]
    fn the_head_of_a_stream_disables_buffering_in_front() {
        let mut head = response(
            200,
            &[
                ("Content-Length", "9"),
                ("Cache-Control", "private, no-cache"),
                ("Connection", "keep-alive"),
                ("Keep-Alive", "timeout=5"),
            ],
        );
        stream_response(&mut head, true).expect("head");
        assert_eq!(value(&head.headers, "cache-control").as_deref(), Some("private, no-cache, no-transform"));
        assert_eq!(value(&head.headers, "x-accel-buffering").as_deref(), Some("no"));
        assert_eq!(value(&head.headers, "transfer-encoding").as_deref(), Some("chunked"));
        for gone in ["content-length", "keep-alive", "connection"] {
            assert_eq!(value(&head.headers, gone), None, "{gone}");
        }
    }
}
