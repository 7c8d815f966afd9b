//! The request as it goes to the upstream.

use std::net::IpAddr;

use bytes::BytesMut;
use pingora::ErrorType;
use pingora::http::{RequestHeader, Version};
use pingora::prelude::{Error, Result};
use pingora::protocols::http::v1::client::http_req_header_to_wire;

use crate::failure::Failure;
use crate::headers::{self, HeadRules, TrustedProxies};

/// What is known of the hop from the client, for the forwarding fields.
pub(crate) struct ClientHop<'a> {
    pub(crate) address: Option<IpAddr>,
    /// Whether the client's connection is encrypted.
    pub(crate) tls: bool,
    pub(crate) trusted_proxies: &'a TrustedProxies,
}

/// The head that goes to the upstream. `host` is the `Host` of a request that has none; `rules` are those of its route.
///
/// # Errors
/// When a header cannot be built.
pub(crate) fn upstream_request(
    downstream: RequestHeader,
    may_be_stream: bool,
    has_body: bool,
    host: Option<&str>,
    hop: &ClientHop<'_>,
    rules: Option<&HeadRules>,
) -> Result<RequestHeader> {
    let build = if may_be_stream { headers::stream_request } else { headers::page_request };
    let mut request = build(downstream, has_body, host)?;
    headers::set_forwarded(&mut request, hop.address, hop.tls, hop.trusted_proxies)?;
    if let Some(rules) = rules {
        rules.change_request(&mut request)?;
    }
    Ok(request)
}

/// A request head in the format of HTTP/1.1.
///
/// # Errors
/// When its target has bytes that no target may have.
pub(crate) fn request_wire(request: &RequestHeader) -> Result<BytesMut, Failure> {
    http_req_header_to_wire(request).ok_or_else(|| Failure::BadRequest {
        source: Error::explain(ErrorType::InvalidHTTPHeader, "the request target has bytes that no target may have"),
    })
}

/// Whether the client waits for a 100 before it sends its body. "A server that receives a 100-continue expectation in an
/// HTTP/1.0 request MUST ignore that expectation" (RFC 9110 §10.1.1).
pub(crate) fn expects_continue(request: &RequestHeader) -> bool {
    request.version >= Version::HTTP_11
        && request.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
