//! What the proxy reads in request and response heads, and what it changes in them.
//!
//! Everything that is not named here passes untouched: `Last-Event-ID`, `traceparent`, cookies, CORS, authorization.

use std::net::IpAddr;

use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;
use thiserror::Error;

use super::body::Body;
use super::chunked::Decoder;

/// The media type of an event stream (WHATWG HTML §9.2.5).
const EVENT_STREAM: &str = "text/event-stream";

/// "Incremental Forwarding of HTTP Messages": asks the next hop not to hold the message back.
const INCREMENTAL: &str = "Incremental";

/// Fields that belong to one connection (RFC 9110 §7.6.1), beside those that `Connection` itself names.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "trailer"];

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

/// A request that must not be passed on as it is, and the status it is answered with.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a Host
    /// header field" (RFC 9112 §3.2).
    #[error("an HTTP/1.1 request needs a Host header")]
    NoHost,
    /// "A server that receives a request message with a transfer coding it does not understand SHOULD respond with 501"
    /// (RFC 9112 §6.1).
    #[error("the request uses a transfer coding other than chunked")]
    TransferCoding,
}

impl RequestError {
    /// The status for the client.
    pub fn status(self) -> u16 {
        match self {
            Self::NoHost => 400,
            Self::TransferCoding => 501,
        }
    }
}

/// Brings an HTTP/1 request into the form in which it is routed and passed on: the target in origin-form, with the host
/// that an absolute one named (RFC 9112 §3.2.2), and one `Content-Length` where the same was said several times
/// (RFC 9110 §8.6).
///
/// # Errors
/// When the request must not be passed on.
pub fn normalize_request(request: &mut RequestHeader) -> std::result::Result<(), RequestError> {
    if request.version > pingora::http::Version::HTTP_11 {
        return Ok(());
    }
    if let Some((host, target)) = split_absolute(request.raw_path()) {
        // The parser has refused a Host header that names another.
        let host_set = request.insert_header("Host", host).is_ok();
        if let (true, Ok(uri)) = (host_set, target.parse()) {
            request.set_uri(uri);
        }
    }
    if request.version == pingora::http::Version::HTTP_11 && !request.headers.contains_key("host") {
        return Err(RequestError::NoHost);
    }
    let mut codings = request.headers.get_all("transfer-encoding").iter();
    if !codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Err(RequestError::TransferCoding);
    }
    let lengths: Vec<_> = request.headers.get_all("content-length").iter().cloned().collect();
    // The parser has refused lengths that differ.
    if let Some(first) = lengths.first().filter(|first| lengths.len() > 1 || first.as_bytes().contains(&b',')) {
        let once = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii().to_vec();
        let _ = request.insert_header("Content-Length", once);
    }
    Ok(())
}

/// The host and the origin-form of a target in absolute-form; `None` for any other.
fn split_absolute(target: &[u8]) -> Option<(String, String)> {
    let target = std::str::from_utf8(target).ok()?;
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some((host.to_owned(), format!("{slash}{path}")))
}

/// Whether a request asks for an event stream: one of the media ranges in `Accept` is `text/event-stream`.
///
/// `*/*` does not count: it is what clients send for anything.
pub fn accepts_event_stream(request: &RequestHeader) -> bool {
    request
        .headers
        .get_all("accept")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| media_type(range).eq_ignore_ascii_case(EVENT_STREAM))
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

/// The request as it goes to the upstream of a stream.
///
/// Connection fields go, and with them `Accept-Encoding`, because nothing can be added to an encoded body, and
/// `Expect`, which the proxy answers itself. `has_body` decides the framing where the client's was not a length.
///
/// # Errors
/// When a header cannot be built.
pub fn stream_request(downstream: &RequestHeader, has_body: bool) -> Result<RequestHeader> {
    let mut request = downstream.clone();
    request.set_version(pingora::http::Version::HTTP_11);
    strip_hop_by_hop(&mut request);
    request.remove_header("accept-encoding");
    request.remove_header("expect");
    join_cookies(&mut request)?;
    request.insert_header("Connection", "close")?;
    request.insert_header(INCREMENTAL, "?1")?;
    if has_body && !request.headers.contains_key("content-length") {
        request.insert_header("Transfer-Encoding", "chunked")?;
    }
    if !request.headers.contains_key("host")
        && let Some(authority) = downstream.uri.authority()
    {
        request.insert_header("Host", authority.as_str())?;
    }
    Ok(request)
}

/// "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a single octet
/// string using the two-octet delimiter of 0x3b, 0x20" before they go to an HTTP/1.1 server (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let crumbs: Vec<&[u8]> = request.headers.get_all("cookie").iter().map(|value| value.as_bytes()).collect();
    if crumbs.len() > 1 {
        let cookie = crumbs.join(&b"; "[..]);
        request.insert_header("Cookie", cookie)?;
    }
    Ok(())
}

/// Tells the upstream who the client is: appends to `X-Forwarded-For`, and sets `X-Forwarded-Proto` and
/// `X-Forwarded-Host` where a proxy in front has not.
///
/// # Errors
/// When a header cannot be built.
pub fn add_forwarded(request: &mut RequestHeader, client: Option<IpAddr>, tls: bool) -> Result<()> {
    if let Some(client) = client {
        let mut hops: Vec<u8> = Vec::new();
        for value in request.headers.get_all("x-forwarded-for") {
            hops.extend_from_slice(value.as_bytes());
            hops.extend_from_slice(b", ");
        }
        hops.extend_from_slice(client.to_string().as_bytes());
        request.insert_header("X-Forwarded-For", hops)?;
    }
    if !request.headers.contains_key("x-forwarded-proto") {
        request.insert_header("X-Forwarded-Proto", if tls { "https" } else { "http" })?;
    }
    if !request.headers.contains_key("x-forwarded-host")
        && let Some(host) = request.headers.get("host").cloned()
    {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    Ok(())
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

/// Removes a response's connection fields.
pub fn strip_response(response: &mut ResponseHeader) {
    let named = named_by_connection(&response.headers);
    for name in HOP_BY_HOP.into_iter().chain(named.iter().map(String::as_str)) {
        response.remove_header(name);
    }
}

fn strip_hop_by_hop(request: &mut RequestHeader) {
    let named = named_by_connection(&request.headers);
    for name in HOP_BY_HOP.into_iter().chain(named.iter().map(String::as_str)) {
        request.remove_header(name);
    }
}

/// "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for each
/// connection-option in this field, remove any header field with the same name" (RFC 9110 §7.6.1). A client that names
/// a field of the message itself this way would strip it from the request behind the user's back: those stay.
fn named_by_connection(headers: &pingora::http::HMap) -> Vec<String> {
    const KEPT: [&str; 6] =
        ["host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-forwarded-proto"];
    headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && !KEPT.contains(&name.as_str()))
        .collect()
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

/// A media range or type without its parameters.
fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/events", None).expect("request");
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).expect("header");
        }
        request
    }

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
    fn a_stream_is_asked_for_by_its_media_type() {
        for accept in ["text/event-stream", "TEXT/Event-Stream;q=0.9", "application/json, text/event-stream"] {
            assert!(accepts_event_stream(&request(&[("Accept", accept)])), "{accept}");
        }
        for accept in ["*/*", "text/html", "text/event-streams", "x/text/event-stream"] {
            assert!(!accepts_event_stream(&request(&[("Accept", accept)])), "{accept}");
        }
        assert!(!accepts_event_stream(&request(&[])));
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
    fn the_upstream_gets_the_request_without_connection_fields_or_codings() {
        let downstream = request(&[
            ("Host", "example.org"),
            ("Accept-Encoding", "gzip, br"),
            ("Connection", "keep-alive, X-Private, Authorization"),
            ("X-Private", "1"),
            ("Authorization", "Bearer token"),
            ("Last-Event-ID", "41"),
            ("traceparent", "00-1-2-03"),
            ("Cookie", "a=b"),
            ("Expect", "100-continue"),
        ]);
        let upstream = stream_request(&downstream, true).expect("request");
        for gone in ["accept-encoding", "x-private", "expect", "keep-alive"] {
            assert_eq!(value(&upstream.headers, gone), None, "{gone}");
        }
        for (kept, expected) in [
            ("last-event-id", "41"),
            ("traceparent", "00-1-2-03"),
            ("cookie", "a=b"),
            ("authorization", "Bearer token"),
        ] {
            assert_eq!(value(&upstream.headers, kept).as_deref(), Some(expected));
        }
        assert_eq!(value(&upstream.headers, "connection").as_deref(), Some("close"));
        assert_eq!(value(&upstream.headers, "transfer-encoding").as_deref(), Some("chunked"));
    }

    #[test]
    fn requests_are_brought_into_the_form_they_are_passed_on_in() {
        let mut absolute = RequestHeader::build("GET", b"http://other.example/events?a=1", None).expect("request");
        absolute.append_header("Host", "x").expect("header");
        normalize_request(&mut absolute).expect("fine");
        assert_eq!(absolute.raw_path(), b"/events?a=1");
        assert_eq!(value(&absolute.headers, "host").as_deref(), Some("other.example"));

        let mut twice = request(&[("Host", "x"), ("Content-Length", "5"), ("Content-Length", "5")]);
        normalize_request(&mut twice).expect("fine");
        assert_eq!(twice.headers.get_all("content-length").iter().count(), 1);
        let mut listed = request(&[("Host", "x"), ("Content-Length", "5, 5")]);
        normalize_request(&mut listed).expect("fine");
        assert_eq!(value(&listed.headers, "content-length").as_deref(), Some("5"));

        let mut coded = request(&[("Host", "x"), ("Transfer-Encoding", "gzip, chunked")]);
        assert_eq!(normalize_request(&mut coded), Err(RequestError::TransferCoding));
        assert_eq!(normalize_request(&mut request(&[])), Err(RequestError::NoHost));
    }

    #[test]
    fn forwarding_appends_the_client_and_keeps_what_a_proxy_in_front_said() {
        let mut forwarded =
            request(&[("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "https"), ("Host", "a.b")]);
        add_forwarded(&mut forwarded, "192.0.2.7".parse().ok(), false).expect("headers");
        assert_eq!(value(&forwarded.headers, "x-forwarded-for").as_deref(), Some("10.0.0.1, 192.0.2.7"));
        assert_eq!(value(&forwarded.headers, "x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(value(&forwarded.headers, "x-forwarded-host").as_deref(), Some("a.b"));
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
