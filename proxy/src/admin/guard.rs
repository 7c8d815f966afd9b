//! Which requests may change something: not those that a browser sends for a page of another site.
//!
//! The admin listener has no access control, and the browser of an operator reaches it. A page of any site can make that browser
//! send a POST, which then carries `Origin`; and a page can give its own name the address of the listener (DNS rebinding), so
//! that `Origin` and `Host` agree. Programs send neither `Origin` nor `Sec-Fetch-Site`.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks the fields of a request that changes something.
///
/// # Errors
/// The reason to refuse it.
pub(super) fn check(fields: &HeaderMap) -> Result<(), &'static str> {
    let value = |name: &HeaderName| fields.get(name).map(|value| value.to_str().unwrap_or("not text"));
    if fields.get_all(ORIGIN).iter().count() > 1 || fields.get_all(&SEC_FETCH_SITE).iter().count() > 1 {
        return Err("Origin and Sec-Fetch-Site may come once");
    }
    let host = value(&HOST).unwrap_or_default();
    match value(&SEC_FETCH_SITE) {
        None | Some("same-origin" | "none") => {}
        Some(_) => return Err("a page of another site has sent this (Sec-Fetch-Site)"),
    }
    match value(&ORIGIN) {
        None => {}
        Some(origin) if origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)) => {}
        Some(_) => return Err("a page of another site has sent this (Origin)"),
    }
    let is_browser = fields.contains_key(ORIGIN) || fields.contains_key(&SEC_FETCH_SITE);
    if is_browser && !is_own(host) {
        return Err("browsers may send this to an IP address or to localhost only (Host)");
    }
    Ok(())
}

/// Whether no name service is asked for a host.
fn is_own(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_sends_for_another_site_is_refused() {
        /// The fields of a request, and a part of the reason to refuse it.
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<(), &'a str>);
        let cases: &[Case<'_>] = &[
            (&[("host", "sse-proxy:9090")], Ok(())),
            (&[], Ok(())),
            (
                &[("host", "127.0.0.1:9090"), ("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")],
                Ok(()),
            ),
            (&[("host", "[::1]:9090"), ("origin", "http://[::1]:9090")], Ok(())),
            (&[("host", "localhost:9090"), ("origin", "http://localhost:9090")], Ok(())),
            (&[("host", "127.0.0.1:9090"), ("sec-fetch-site", "none")], Ok(())),
            (&[("host", "127.0.0.1:9090"), ("origin", "https://evil.example")], Err("(Origin)")),
            (&[("host", "127.0.0.1:9090"), ("origin", "http://127.0.0.1:3000")], Err("(Origin)")),
            (&[("host", "127.0.0.1:9090"), ("origin", "null")], Err("(Origin)")),
            (&[("host", "127.0.0.1:9090"), ("sec-fetch-site", "cross-site")], Err("(Sec-Fetch-Site)")),
            (&[("host", "127.0.0.1:9090"), ("sec-fetch-site", "same-site")], Err("(Sec-Fetch-Site)")),
            (&[("host", "evil.example:9090"), ("origin", "http://evil.example:9090")], Err("(Host)")),
            (&[("host", "evil.example:9090"), ("sec-fetch-site", "same-origin")], Err("(Host)")),
            (&[("host", "a:1"), ("origin", "http://a:1"), ("origin", "http://b")], Err("may come once")),
        ];
        for (fields, wanted) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in *fields {
                map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
            }
            match (check(&map), wanted) {
                (Ok(()), Ok(())) => {}
                (Err(reason), Err(wanted)) => assert!(reason.contains(wanted), "{fields:?}: {reason}"),
                (found, wanted) => panic!("{fields:?}: {found:?}, not {wanted:?}"),
            }
        }
    }
}
