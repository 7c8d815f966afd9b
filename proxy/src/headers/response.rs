//! The response: whether it is an event stream, how its body is delimited, and how it goes to the client.

use pingora::http::ResponseHeader;
use pingora::prelude::Result;
use thiserror::Error;

use super::fields::{EVENT_STREAM, INCREMENTAL, media_type, strip_response};
use crate::wire::body::Body;
use crate::wire::chunked::Decoder;

/// The response's framing cannot be relied on.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FramingError {
    /// A transfer coding other than chunked, or chunked not last.
    #[error("response uses a transfer coding other than chunked")]
    TransferCoding,
    /// A content length that is no number, or several that differ.
    #[error("response has an invalid Content-Length")]
    ContentLength,
}

/// Whether a response is an event stream: status 200 and the media type.
///
/// EventSource takes any other status for a failure (WHATWG HTML §9.2.3), and 204, 206 and 304 have no stream to carry.
pub fn is_event_stream(response: &ResponseHeader) -> bool {
    response.status == 200
        && response
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| media_type(value).eq_ignore_ascii_case(EVENT_STREAM))
}

/// Whether the body is sent without a content coding, so that something may be added to it.
pub fn is_identity(response: &ResponseHeader) -> bool {
    response.headers.get_all("content-encoding").iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// How the body of a response to anything but HEAD is delimited (RFC 9112 §6.3), for a status that has one.
///
/// # Errors
/// When the framing fields are not ones that this proxy and the client are sure to read alike.
pub fn response_body(response: &ResponseHeader) -> std::result::Result<Body, FramingError> {
    let codings: Vec<_> = response.headers.get_all("transfer-encoding").iter().collect();
    match codings.as_slice() {
        [] => {}
        [only] if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            return Ok(Body::Chunked(Decoder::default()));
        }
        _ => return Err(FramingError::TransferCoding),
    }
    let mut lengths = response.headers.get_all("content-length").iter().map(|value| {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|text| text.parse::<u64>().ok()).ok_or(FramingError::ContentLength)
    });
    let Some(first) = lengths.next().transpose()? else { return Ok(Body::UntilClose) };
    if lengths.all(|length| length == Ok(first)) { Ok(Body::Length(first)) } else { Err(FramingError::ContentLength) }
}

/// The head of a stream as it goes to the client: connection fields and length go, since something may be added to the
/// body; what keeps proxies and caches in front from holding events back is added.
///
/// # Errors
/// When a header cannot be built.
pub fn stream_response(response: &mut ResponseHeader, chunked: bool) -> Result<()> {
    strip_response(response);
    response.remove_header("content-length");
    response.set_version(pingora::http::Version::HTTP_11);
    if chunked {
        response.insert_header("Transfer-Encoding", "chunked")?;
    }
    if !response.headers.contains_key("x-accel-buffering") {
        response.insert_header("X-Accel-Buffering", "no")?;
    }
    response.insert_header(INCREMENTAL, "?1")?;
    let cache_control = with_directives(response, &["no-cache", "no-transform"]);
    response.insert_header("Cache-Control", cache_control)?;
    Ok(())
}

/// Writes a response head as HTTP/1.1 has it on the wire.
pub fn write_response(response: &ResponseHeader, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(response.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(response.get_reason_phrase().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    response.header_to_h1_wire(out);
    out.extend_from_slice(b"\r\n");
}

/// `Cache-Control` with `wanted` appended where missing; what the origin set stays.
fn with_directives(response: &ResponseHeader, wanted: &[&str]) -> String {
    let mut directives: Vec<String> = response
        .headers
        .get_all("cache-control")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_owned())
        .filter(|directive| !directive.is_empty())
        .collect();
    for want in wanted {
        if !directives.iter().any(|directive| directive.eq_ignore_ascii_case(want)) {
            directives.push((*want).to_owned());
        }
    }
    directives.join(", ")
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
    fn a_stream_is_a_200_of_its_media_type() {
        let stream = [("Content-Type", "text/event-stream; charset=utf-8")];
        assert!(is_event_stream(&response(200, &stream)));
        for status in [201, 204, 206, 304, 401, 503] {
            assert!(!is_event_stream(&response(status, &stream)), "{status}");
        }
        assert!(!is_event_stream(&response(200, &[("Content-Type", "application/json")])));
        assert!(!is_event_stream(&response(200, &[])));
    }

    #[test]
    fn framing_is_read_as_the_client_would() {
        assert!(matches!(response_body(&response(200, &[])), Ok(Body::UntilClose)));
        assert!(matches!(response_body(&response(200, &[("Content-Length", "7")])), Ok(Body::Length(7))));
        let chunked = [("Transfer-Encoding", "chunked"), ("Content-Length", "7")];
        assert!(matches!(response_body(&response(200, &chunked)), Ok(Body::Chunked(_))));
        for bad in ["gzip", "gzip, chunked", "chunked, chunked"] {
            let framing = response_body(&response(200, &[("Transfer-Encoding", bad)]));
            assert!(matches!(framing, Err(FramingError::TransferCoding)), "{bad}");
        }
        for bad in ["-1", "+1", "1, 2", "99999999999999999999", ""] {
            let framing = response_body(&response(200, &[("Content-Length", bad)]));
            assert!(matches!(framing, Err(FramingError::ContentLength)), "{bad:?}");
        }
        let differ = [("Content-Length", "1"), ("Content-Length", "2")];
        assert!(matches!(response_body(&response(200, &differ)), Err(FramingError::ContentLength)));
    }

    #[test]
    fn the_client_gets_a_head_that_nothing_in_front_should_hold_back() {
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
