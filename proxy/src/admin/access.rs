//! Who may see and change what runs: pure rules about one request to the admin listener.
//!
//! A page of another site that an operator's browser shows must not reach it: neither across sites, nor under a name that
//! its owner lets resolve to this host (DNS rebinding).

use std::net::IpAddr;
use std::path::Path;

use subtle::ConstantTimeEq;

/// A token that is shorter can be guessed.
const SHORTEST_TOKEN: usize = 16;
const LONGEST_TOKEN: usize = 4096;

/// What counts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller<'a> {
    /// Whether it comes from this host.
    pub(super) is_local: bool,
    pub(super) host: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    pub(super) fetch_site: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    CrossSite,
    /// The token is missing or wrong.
    Token,
    /// There is no token, and the request comes from another host.
    Remote,
    /// There is no token, and the request names a host that may be anybody's.
    Host,
}

impl Denied {
    pub(super) fn status(self) -> u16 {
        if self == Self::Token { 401 } else { 403 }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::CrossSite => "refused: the request comes from a page of another site\n",
            Self::Token => "refused: send the token in admin.token_file, as Authorization: Bearer TOKEN\n",
            Self::Remote => "refused: set admin.token_file to use this from another host\n",
            Self::Host => "refused: use an address, localhost, or the name in admin.address as the host of the URL\n",
        }
    }
}

/// Decides on a request. `own_host` is the host in `admin.address`.
pub(super) fn check(caller: Caller<'_>, token: Option<&str>, own_host: &str) -> Result<(), Denied> {
    let host = caller.host.map(host_of);
    let same_site = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, origin)| caller.host.is_some_and(|host| host.eq_ignore_ascii_case(origin)))
    };
    if caller.origin.is_some_and(|origin| !same_site(origin))
        || caller.fetch_site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return Err(Denied::CrossSite);
    }
    if let Some(token) = token {
        // A page cannot know it, so the host does not matter.
        let given = caller.authorization.and_then(|field| field.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, given)| given.trim());
        let equal = given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.as_bytes())));
        return if equal { Ok(()) } else { Err(Denied::Token) };
    }
    if !caller.is_local {
        return Err(Denied::Remote);
    }
    let is_own = |host: &str| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(own_host)
    };
    // Browsers always send one.
    if host.is_none_or(is_own) { Ok(()) } else { Err(Denied::Host) }
}

/// The host of `host:port`.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Reads a token.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("which cannot be read: {error}"))?;
    let token = text.trim();
    if !(SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&token.len()) {
        return Err(format!("whose token has {} bytes, and needs {SHORTEST_TOKEN} to {LONGEST_TOKEN}", token.len()));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("whose token is not one line of visible ASCII characters".to_owned());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn pages_of_other_sites_and_other_hosts_are_refused() {
        let local = |host| Caller { is_local: true, host: Some(host), ..Caller::default() };
        let from = |origin| Caller { origin: Some(origin), ..local("127.0.0.1:9090") };
        let fetched = |site| Caller { fetch_site: Some(site), ..local("127.0.0.1:9090") };
        for (caller, wanted) in [
            (local("127.0.0.1:9090"), Ok(())),
            (local("[::1]:9090"), Ok(())),
            (local("localhost"), Ok(())),
            (local("LocalHost:9090"), Ok(())),
            (local("admin.internal:9090"), Ok(())),
            (local("rebound.example:9090"), Err(Denied::Host)),
            (local("127.0.0.1.example"), Err(Denied::Host)),
            (local(""), Err(Denied::Host)),
            (Caller { host: None, ..local("") }, Ok(())),
            (from("http://127.0.0.1:9090"), Ok(())),
            (from("http://127.0.0.1:8080"), Err(Denied::CrossSite)),
            (from("https://example.com"), Err(Denied::CrossSite)),
            (from("null"), Err(Denied::CrossSite)),
            (fetched("same-origin"), Ok(())),
            (fetched("none"), Ok(())),
            (fetched("cross-site"), Err(Denied::CrossSite)),
            (fetched("same-site"), Err(Denied::CrossSite)),
            (Caller { is_local: false, ..local("127.0.0.1:9090") }, Err(Denied::Remote)),
        ] {
            assert_eq!(check(caller, None, "admin.internal"), wanted, "{caller:?}");
        }
    }

    #[test]
    fn a_token_is_asked_for_and_enough() {
        let remote = |authorization| Caller { authorization, host: Some("any.example"), ..Caller::default() };
        for (authorization, wanted) in [
            (Some("Bearer 0123456789abcdef"), Ok(())),
            (Some("bearer  0123456789abcdef"), Ok(())),
            (Some("Bearer 0123456789abcdeg"), Err(Denied::Token)),
            (Some("Bearer 0123456789abcdef0"), Err(Denied::Token)),
            (Some("Bearer "), Err(Denied::Token)),
            (Some("Basic 0123456789abcdef"), Err(Denied::Token)),
            (Some("0123456789abcdef"), Err(Denied::Token)),
            (None, Err(Denied::Token)),
        ] {
            assert_eq!(check(remote(authorization), Some(TOKEN), "localhost"), wanted, "{authorization:?}");
        }
        let local = Caller { is_local: true, ..remote(None) };
        assert_eq!(check(local, Some(TOKEN), "localhost"), Err(Denied::Token), "on this host, too");
        let cross = Caller { origin: Some("https://example.com"), ..remote(Some("Bearer 0123456789abcdef")) };
        assert_eq!(check(cross, Some(TOKEN), "localhost"), Err(Denied::CrossSite));
    }

    #[test]
    fn a_token_is_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        for (text, wanted) in [
            ("0123456789abcdef\n", true),
            ("short\n", false),
            ("", false),
            ("0123456789 abcdef", false),
            ("0123456789\nabcdef", false),
        ] {
            std::fs::write(&path, text).expect("a file");
            assert_eq!(read_token(&path).is_ok(), wanted, "{text:?}");
        }
        assert!(read_token(&folder.path().join("none")).is_err());
    }
}
