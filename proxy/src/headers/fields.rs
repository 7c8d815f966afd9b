//! Connection fields, and names shared by the modules of headers.

use http::{HeaderName, HeaderValue, header};
use pingora::http::{HMap, RequestHeader, ResponseHeader};

use super::control::{strip_request_control, strip_response_control};
use super::forwarded::is_forwarding_field;

/// The media type of an event stream (WHATWG HTML §9.2.5).
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// "Incremental Forwarding of HTTP Messages": asks the next hop not to hold the message back.
pub(super) const INCREMENTAL: (&str, HeaderValue) = ("Incremental", HeaderValue::from_static("?1"));

/// Fields that belong to one connection (RFC 9110 §7.6.1), beside those that `Connection` itself names. `HTTP2-Settings`
/// comes with an offer of HTTP/2 by `Upgrade`, which this proxy does not take (RFC 9113 §3.1).
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
    HeaderName::from_static("http2-settings"),
];

/// Removes a response's connection fields, and those that are for this proxy.
pub fn strip_response(response: &mut ResponseHeader) {
    let (present, named) = (hop_by_hop(&response.headers), named_by_connection(&response.headers));
    present.for_each(|name| drop(response.remove_header(name)));
    named.iter().for_each(|name| drop(response.remove_header(name.as_str())));
    strip_response_control(response);
}

/// Removes a request's connection fields, and those that only a backend may send to this proxy.
pub(super) fn strip_request(request: &mut RequestHeader) {
    let (present, named) = (hop_by_hop(&request.headers), named_by_connection(&request.headers));
    present.for_each(|name| drop(request.remove_header(name)));
    named.iter().for_each(|name| drop(request.remove_header(name.as_str())));
    strip_request_control(request);
}

/// The connection fields that are present, found in one pass: most heads have one or two.
fn hop_by_hop(headers: &HMap) -> impl Iterator<Item = &'static HeaderName> + use<> {
    let mut present = [false; HOP_BY_HOP.len()];
    // The first letter rules most fields out.
    for name in headers.keys().filter(|name| name.as_str().bytes().next().is_some_and(|byte| b"ckptuh".contains(&byte)))
    {
        if let Some(at) = HOP_BY_HOP.iter().position(|field| field == name) {
            present[at] = true;
        }
    }
    HOP_BY_HOP.iter().zip(present).filter_map(|(field, is_present)| is_present.then_some(field))
}

/// "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for each
/// connection-option in this field, remove any header field with the same name" (RFC 9110 §7.6.1). A client that names
/// a field of the message itself this way would strip it from the request behind the user's back: those stay. Omits
/// [`HOP_BY_HOP`].
fn named_by_connection(headers: &HMap) -> Vec<String> {
    const KEPT: [&str; 4] = ["host", "content-length", "authorization", "cookie"];
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        // An invalid name does not affect the others.
        .filter_map(|name| std::str::from_utf8(name).ok())
        .map(str::trim)
        .filter(|name| !name.is_empty() && !HOP_BY_HOP.iter().any(|field| name.eq_ignore_ascii_case(field.as_str())))
        .map(str::to_ascii_lowercase)
        .filter(|name| !KEPT.contains(&name.as_str()) && !is_forwarding_field(name))
        .collect()
}

/// A media range or type without its parameters.
pub(super) fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_field_is_removed() {
        for field in &HOP_BY_HOP {
            let mut response = ResponseHeader::build(200, None).expect("response");
            for name in [field.as_str(), "X-A"] {
                response.append_header(name.to_owned(), "1").expect("header");
            }
            strip_response(&mut response);
            assert_eq!(response.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-a"], "{field}");
        }
    }

    /// Invariant: what `Connection` names is not forwarded. Mechanism: one byte that is not ASCII made the whole field pass
    /// for empty. Symptom: fields of the upstream's connection reach the client. Found by fuzzing.
    #[test]
    fn a_connection_field_with_an_invalid_name_still_removes_the_others() {
        let mut response = ResponseHeader::build(200, None).expect("response");
        response.append_header("Connection", &b"\xDE, X-A"[..]).expect("header");
        response.append_header("X-A", "1").expect("header");
        strip_response(&mut response);
        assert!(!response.headers.contains_key("x-a"));
    }
}
