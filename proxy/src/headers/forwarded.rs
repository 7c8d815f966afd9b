//! What the upstream learns of the client.

use std::net::IpAddr;

use pingora::http::RequestHeader;
use pingora::prelude::Result;

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

    fn value(headers: &pingora::http::HMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().expect("text").to_owned())
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
}
