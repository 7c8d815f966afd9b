//! `Via` (RFC 9110 §7.6.3): marks messages that passed through this proxy, and detects request loops.

use std::sync::LazyLock;

use http::{HeaderValue, header};
use pingora::http::{HMap, RequestHeader, ResponseHeader, Version};
use pingora::prelude::Result;

/// The name under which this proxy appears in `Via` and in `Proxy-Status`.
pub const PSEUDONYM: &str = "sse-proxy";

/// Identifies this process: 16 hexadecimal digits, in a comment of the requests' `Via`.
static PROCESS: LazyLock<String> = LazyLock::new(|| format!("{:016x}", fastrand::u64(..)));

/// The values for requests: received over HTTP/1.0, HTTP/1.1, HTTP/2.
static REQUEST_VALUES: LazyLock<[HeaderValue; 3]> = LazyLock::new(|| {
    ["1.0", "1.1", "2"].map(|version| {
        let value = format!("{version} {PSEUDONYM} ({})", *PROCESS);
        HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("1.1 sse-proxy"))
    })
});

/// Adds this proxy to a request that was received as `version`.
pub(super) fn add_to_request(request: &mut RequestHeader, version: Version) -> Result<()> {
    let at = match version {
        Version::HTTP_10 | Version::HTTP_09 => 0,
        Version::HTTP_11 => 1,
        _ => 2,
    };
    request.append_header("Via", REQUEST_VALUES[at].clone()).map(|_| ())
}

/// Adds this proxy to a response that was received as `version`.
pub(super) fn add_to_response(response: &mut ResponseHeader, version: Version) -> Result<()> {
    let value = if version == Version::HTTP_10 { "1.0 sse-proxy" } else { "1.1 sse-proxy" };
    response.append_header("Via", HeaderValue::from_static(value)).map(|_| ())
}

/// Whether a request has passed through this process before, because an upstream leads back to one of its listeners.
pub fn is_loop(headers: &HMap) -> bool {
    let mut values = headers.get_all(header::VIA).iter();
    values.any(|value| memchr::memmem::find(value.as_bytes(), PROCESS.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_through_this_process_is_a_loop() {
        let mut request = RequestHeader::build("GET", b"/", None).expect("request");
        request.append_header("Via", "1.1 sse-proxy (0000000000000000), 1.1 nginx").expect("header");
        assert!(!is_loop(&request.headers), "another process of the same name");
        add_to_request(&mut request, Version::HTTP_2).expect("header");
        assert_eq!(request.headers.get_all("via").iter().count(), 2);
        assert!(is_loop(&request.headers));
    }
}
