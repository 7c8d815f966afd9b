//! Connection fields, and names shared by the modules of headers.

use pingora::http::{RequestHeader, ResponseHeader};

use super::forwarded::is_forwarding_field;

/// The media type of an event stream (WHATWG HTML §9.2.5).
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// "Incremental Forwarding of HTTP Messages": asks the next hop not to hold the message back.
pub(super) const INCREMENTAL: &str = "Incremental";

/// Fields that belong to one connection (RFC 9110 §7.6.1), beside those that `Connection` itself names. `HTTP2-Settings`
/// comes with an offer of HTTP/2 by `Upgrade`, which this proxy does not take (RFC 9113 §3.1).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "trailer", "http2-settings"];

/// Removes a response's connection fields.
pub fn strip_response(response: &mut ResponseHeader) {
    let named = named_by_connection(&response.headers);
    for name in HOP_BY_HOP.into_iter().chain(named.iter().map(String::as_str)) {
        response.remove_header(name);
    }
}

/// Removes a request's connection fields.
pub(super) fn strip_request(request: &mut RequestHeader) {
    let named = named_by_connection(&request.headers);
    for name in HOP_BY_HOP.into_iter().chain(named.iter().map(String::as_str)) {
        request.remove_header(name);
    }
}

/// "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for each
/// connection-option in this field, remove any header field with the same name" (RFC 9110 §7.6.1). A client that names
/// a field of the message itself this way would strip it from the request behind the user's back: those stay.
fn named_by_connection(headers: &pingora::http::HMap) -> Vec<String> {
    const KEPT: [&str; 4] = ["host", "content-length", "authorization", "cookie"];
    headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        // An invalid name does not affect the others.
        .filter_map(|name| std::str::from_utf8(name).ok())
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && !KEPT.contains(&name.as_str()) && !is_forwarding_field(name))
        .collect()
}

/// A media range or type without its parameters.
pub(super) fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

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
