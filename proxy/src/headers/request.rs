//! Requests: normalization, refusals, and the head that goes to the upstream.

use http::{HeaderValue, header};
use pingora::http::{HMap, Method, RequestHeader, Version};
use pingora::prelude::Result;

use crate::wire::refusal::Refusal;
use crate::wire::request::{HeadLimits, is_host};

use super::fields::{EVENT_STREAM, INCREMENTAL, media_type, strip_request};
use super::via;

/// Normalizes an HTTP/1 request for routing and forwarding: the target in origin-form, the host of an absolute target
/// in `Host` (RFC 9112 §3.2.2), and one `Content-Length` in place of equal ones (RFC 9110 §8.6). Requests that must not be
/// forwarded have been refused by [`RequestHead::parse`](crate::wire::request::RequestHead::parse).
pub fn normalize_request(request: &mut RequestHeader) {
    join_lengths(request);
    if request.version > Version::HTTP_11 {
        return;
    }
    if let Some((host, target)) = split_absolute(request.raw_path()) {
        // The parser has refused a Host header that differs.
        let host_set = request.insert_header("Host", host).is_ok();
        if let (true, Ok(uri)) = (host_set, target.parse()) {
            request.set_uri(uri);
        }
    }
}

/// Replaces equal `Content-Length` values by one (RFC 9110 §8.6).
fn join_lengths(request: &mut RequestHeader) {
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    // The parser has refused lengths that differ.
    if let Some(first) = lengths.next()
        && (lengths.next().is_some() || first.as_bytes().contains(&b','))
    {
        let once = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii().to_vec();
        let _ = request.insert_header("Content-Length", once);
    }
}

/// Applies to a request over HTTP/2 the rules of [`RequestHead::parse`](crate::wire::request::RequestHead::parse) that
/// the library does not check: method, size, host, and field names. Returns how many fields were removed.
///
/// # Errors
/// When the request must not be served.
pub fn check_http2_request(request: &mut RequestHeader, limits: &HeadLimits) -> std::result::Result<usize, Refusal> {
    if matches!(request.method.as_str(), "CONNECT" | "TRACE") {
        return Err(Refusal::Method);
    }
    if request.raw_path().len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if request.headers.len() > limits.fields {
        return Err(Refusal::TooManyFields);
    }
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let hosts = request.headers.get_all("host").iter().map(|host| host.as_bytes());
    if !hosts.chain(authority).all(is_host) {
        return Err(Refusal::Host);
    }
    let dropped: Vec<_> = request.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    let mut count = 0;
    for name in dropped {
        count += request.headers.get_all(&name).iter().count();
        request.remove_header(&name);
    }
    Ok(count)
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

/// The host that a request is for, as the upstream gets it, without port and without the dot that ends an absolute name.
/// `None` for a request over HTTP/1.0 that names none.
pub fn host_name(request: &RequestHeader) -> Option<&[u8]> {
    let field = request.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = field.or_else(|| request.uri.authority().map(|authority| authority.as_str().as_bytes()))?;
    // The colons within brackets belong to an IPv6 address.
    let address = host.iter().rposition(|byte| *byte == b']').unwrap_or(0);
    let end = host[address..].iter().position(|byte| *byte == b':').map_or(host.len(), |colon| address + colon);
    let name = &host[..end];
    Some(name.strip_suffix(b".").unwrap_or(name))
}

/// Whether a request asks for an event stream: one of the media ranges in `Accept` is `text/event-stream`.
///
/// `*/*` does not count: clients send it for every kind of resource.
pub fn accepts_event_stream(request: &RequestHeader) -> bool {
    request
        .headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| media_type(range).eq_ignore_ascii_case(EVENT_STREAM))
}

/// Whether a request asks to switch to another protocol, such as WebSocket, so that both connections become a tunnel.
///
/// An offer of HTTP/2 (`h2c`) is not one: RFC 9113 §3.1 has withdrawn it, "a server MAY ignore a received Upgrade header
/// field" (RFC 9110 §7.8), and this proxy does. Neither is `Upgrade` without `Connection: upgrade`.
pub fn asks_upgrade(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && list(&request.headers, "connection").any(|option| option.eq_ignore_ascii_case("upgrade"))
        && list(&request.headers, "upgrade").any(|protocol| !protocol.eq_ignore_ascii_case("h2c"))
}

/// Removes an `Upgrade` that [`asks_upgrade`] does not count, so that no server behind accepts it.
pub fn drop_ignored_upgrade(request: &mut RequestHeader) {
    if request.headers.contains_key(header::UPGRADE) && !asks_upgrade(request) {
        request.remove_header("upgrade");
        request.remove_header("http2-settings");
    }
}

/// Whether a request may be sent again if the first attempt got no response: its method is idempotent (RFC 9110
/// §9.2.2), and there is no body that would have to be sent again.
pub fn is_repeatable(request: &RequestHeader, has_body: bool) -> bool {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];
    !has_body && idempotent.contains(&request.method)
}

/// Adds this proxy to the `Via` of a request that was received as `version`.
///
/// # Errors
/// When the header cannot be built.
pub fn add_via(request: &mut RequestHeader, version: Version) -> Result<()> {
    via::add_to_request(request, version)
}

/// A target for the log, without its query, which may contain tokens.
pub fn masked_target(target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    match target.split_once('?') {
        Some((path, _)) => format!("{path}?…"),
        None => target.into_owned(),
    }
}

/// The elements of a field that is a list (RFC 9110 §5.6.1), over all its lines.
fn list<'a>(headers: &'a HMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// The request as it goes to the upstream of a stream.
///
/// Removes connection fields, `Accept-Encoding`, because heartbeats cannot be added to an encoded body, and `Expect`,
/// which the proxy answers itself. `has_body` decides the framing if the client sent no length. `host` is for a request
/// without one.
///
/// # Errors
/// When a header cannot be built.
pub fn stream_request(downstream: RequestHeader, has_body: bool, host: Option<&str>) -> Result<RequestHeader> {
    let mut request = upstream_request(downstream, has_body, host)?;
    request.remove_header(&header::ACCEPT_ENCODING);
    request.insert_header("Connection", HeaderValue::from_static("close"))?;
    let (name, value) = INCREMENTAL;
    request.insert_header(name, value)?;
    Ok(request)
}

/// The request as it goes to the upstream of a page. The connection is kept for the next request.
///
/// # Errors
/// When a header cannot be built.
pub fn page_request(downstream: RequestHeader, has_body: bool, host: Option<&str>) -> Result<RequestHeader> {
    upstream_request(downstream, has_body, host)
}

fn upstream_request(mut request: RequestHeader, has_body: bool, host: Option<&str>) -> Result<RequestHeader> {
    let client_version = request.version;
    request.set_version(Version::HTTP_11);
    strip_request(&mut request);
    request.remove_header(&header::EXPECT);
    join_cookies(&mut request)?;
    let has_length = request.headers.contains_key(header::CONTENT_LENGTH);
    if has_body && !has_length {
        request.insert_header("Transfer-Encoding", HeaderValue::from_static("chunked"))?;
    }
    // "A user agent SHOULD send Content-Length in a request when the method defines a meaning for enclosed content and
    // it is not sending Transfer-Encoding" (RFC 9110 §8.6). HTTP/2 has the end of the stream instead.
    if !has_body && !has_length && [Method::POST, Method::PUT, Method::PATCH].contains(&request.method) {
        request.insert_header("Content-Length", HeaderValue::from_static("0"))?;
    }
    if !request.headers.contains_key(header::HOST) {
        let authority = request.uri.authority().map(|authority| authority.to_string());
        if let Some(host) = authority.or_else(|| host.map(str::to_owned)) {
            request.insert_header("Host", host)?;
        }
    }
    via::add_to_request(&mut request, client_version)?;
    Ok(request)
}

/// "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a single octet
/// string using the two-octet delimiter of 0x3b, 0x20" before they go to an HTTP/1.1 server (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let crumbs = request.headers.get_all(header::COOKIE);
    if crumbs.iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = crumbs.iter().map(|value| value.as_bytes()).collect();
        let cookie = crumbs.join(&b"; "[..]);
        request.insert_header("Cookie", cookie)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;
    use crate::wire::request::{MAX_FIELDS, RequestHead};

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/events", None).expect("request");
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).expect("header");
        }
        request
    }

    fn value(headers: &pingora::http::HMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn the_host_of_a_request_has_neither_port_nor_final_dot() {
        for (host, wanted) in [
            ("a.example", "a.example"),
            ("A.Example:8443", "A.Example"),
            ("a.example.", "a.example"),
            ("a.example.:80", "a.example"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
        ] {
            let field = request(&[("Host", host)]);
            assert_eq!(host_name(&field), Some(wanted.as_bytes()), "{host}");
            let mut authority = request(&[]);
            authority.set_uri(format!("https://{host}/events").parse().expect("target"));
            assert_eq!(host_name(&authority), Some(wanted.as_bytes()), "{host}");
            authority.insert_header("Host", "field.example").expect("header");
            assert_eq!(host_name(&authority), Some(&b"field.example"[..]), "the field goes to the upstream");
        }
        assert_eq!(host_name(&request(&[])), None);
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
        let upstream = stream_request(downstream, true, None).expect("request");
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
    fn requests_over_http_2_meet_the_same_limits() {
        let limits = HeadLimits { target_bytes: 10, fields: 3, ..HeadLimits::default() };
        let check = |method: &str, target: &[u8], names: &[&str]| {
            let mut request = RequestHeader::build(method, target, None).expect("request");
            for name in names {
                request.append_header((*name).to_owned(), "1").expect("header");
            }
            let outcome = check_http2_request(&mut request, &limits);
            outcome.map(|dropped| (dropped, request.headers.len()))
        };
        assert_eq!(check("GET", b"/123456789", &["a", "b_c", "b_c"]), Ok((2, 1)));
        assert_eq!(check("GET", b"/1234567890", &[]), Err(Refusal::TargetTooLong));
        assert_eq!(check("GET", b"/", &["a", "b", "c", "d"]), Err(Refusal::TooManyFields));
        assert_eq!(check("TRACE", b"/", &[]), Err(Refusal::Method));
    }

    #[test]
    fn requests_are_normalized() {
        let mut absolute = RequestHeader::build("GET", b"http://other.example/events?a=1", None).expect("request");
        absolute.append_header("Host", "x").expect("header");
        normalize_request(&mut absolute);
        assert_eq!(absolute.raw_path(), b"/events?a=1");
        assert_eq!(value(&absolute.headers, "host").as_deref(), Some("other.example"));

        let mut twice = request(&[("Host", "x"), ("Content-Length", "5"), ("Content-Length", "5")]);
        normalize_request(&mut twice);
        assert_eq!(twice.headers.get_all("content-length").iter().count(), 1);
        let mut listed = request(&[("Host", "x"), ("Content-Length", "5, 5")]);
        normalize_request(&mut listed);
        assert_eq!(value(&listed.headers, "content-length").as_deref(), Some("5"));
    }

    #[test]
    fn only_another_protocol_than_http_is_an_upgrade() {
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[("Connection", "Upgrade"), ("Upgrade", "websocket")], true),
            (&[("Connection", "keep-alive, upgrade"), ("Upgrade", "h2c, websocket")], true),
            (&[("Connection", "Upgrade"), ("Upgrade", "TLS/1.0")], true),
            (&[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAM")], false),
            (&[("Connection", "Upgrade"), ("Upgrade", "H2C")], false),
            (&[("Upgrade", "websocket")], false),
            (&[("Connection", "upgrade")], false),
            (&[], false),
        ];
        for (fields, expected) in cases {
            let mut request = request(fields);
            assert_eq!(asks_upgrade(&request), expected, "{fields:?}");
            drop_ignored_upgrade(&mut request);
            let offered = fields.iter().any(|(name, _)| *name == "Upgrade");
            // What reads the connection has to know of the same upgrades.
            let fields_on_the_wire: String =
                fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields_on_the_wire}\r\n");
            let mut buffer = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let head = RequestHead::parse(head.as_bytes(), &HeadLimits::default(), &mut buffer);
            assert_eq!(head.map(|head| head.map(|head| head.offers_upgrade)), Ok(Some(expected)), "{fields:?}");
            assert_eq!(request.headers.contains_key("upgrade"), expected && offered, "{fields:?}");
        }
    }

    #[test]
    fn queries_stay_out_of_logs() {
        assert_eq!(masked_target(b"/chat?token=secret&a=?"), "/chat?…");
        assert_eq!(masked_target(b"/chat"), "/chat");
    }

    #[test]
    fn a_page_request_keeps_its_codings_and_states_its_length() {
        for (method, has_body, length) in [("POST", false, Some("0")), ("GET", false, None), ("PUT", true, None)] {
            let mut downstream = RequestHeader::build(method, b"/", None).expect("request");
            downstream.set_version(Version::HTTP_10);
            downstream.append_header("Accept-Encoding", "gzip").expect("header");
            downstream.append_header("Cookie", "a=1").expect("header");
            downstream.append_header("cookie", "b=2").expect("header");
            let upstream = page_request(downstream, has_body, Some("app:3000")).expect("request");
            assert_eq!(value(&upstream.headers, "accept-encoding").as_deref(), Some("gzip"));
            assert_eq!(value(&upstream.headers, "cookie").as_deref(), Some("a=1; b=2"));
            assert_eq!(value(&upstream.headers, "content-length").as_deref(), length, "{method}");
            assert_eq!(upstream.headers.contains_key("transfer-encoding"), has_body, "{method}");
            assert_eq!(value(&upstream.headers, "host").as_deref(), Some("app:3000"));
            assert_eq!(value(&upstream.headers, "connection"), None);
            assert!(value(&upstream.headers, "via").is_some_and(|via| via.starts_with("1.0 sse-proxy")));
        }
    }
}
