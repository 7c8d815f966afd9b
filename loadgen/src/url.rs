//! The addresses a run is pointed at: `http://host[:port][/path][?query]`, and nothing else.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A parsed URL, not yet resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// Host and port as written, for the `Host` header.
    pub authority: String,
    /// Path and query as they go into the request line.
    pub path: String,
}

/// Why a URL cannot be used.
#[derive(Debug, Error)]
pub enum UrlError {
    /// Another scheme.
    #[error("`{0}`: https is not supported; point at a plaintext listener (http://…) of the same server")]
    Https(String),
    /// Not a URL of the supported form.
    #[error("`{0}`: expected http://host[:port][/path]")]
    Form(String),
    /// The name does not resolve.
    #[error("cannot resolve `{authority}`")]
    Resolve {
        /// Host and port.
        authority: String,
        /// What the resolver said.
        #[source]
        source: std::io::Error,
    },
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(UrlError::Https(text.to_owned()));
        }
        let form = || UrlError::Form(text.to_owned());
        let rest = match text.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("http://") => &text[7..],
            _ => return Err(form()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !is_plain(authority) || !is_plain(path) {
            return Err(form());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { authority: authority.to_owned(), path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// The first address the host resolves to; port 80 unless one is given.
    ///
    /// # Errors
    /// When there is none.
    pub fn resolve(&self) -> Result<SocketAddr, UrlError> {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok())
            && (!self.authority.starts_with('[') || self.authority.contains("]:"));
        let with_port = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let refuse = |source| UrlError::Resolve { authority: self.authority.clone(), source };
        let mut addresses = with_port.to_socket_addrs().map_err(refuse)?;
        addresses.next().ok_or_else(|| refuse(std::io::ErrorKind::NotFound.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        for (text, authority, path) in [
            ("http://127.0.0.1:9000/events?interval=1s", "127.0.0.1:9000", "/events?interval=1s"),
            ("HTTP://localhost", "localhost", "/"),
            ("http://localhost?x=1#part", "localhost", "/?x=1"),
            ("http://[::1]:80/", "[::1]:80", "/"),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!((url.authority.as_str(), url.path.as_str()), (authority, path));
        }
    }

    #[test]
    fn what_is_not_http_is_refused_with_a_reason() {
        assert!(matches!("https://x/".parse::<Url>(), Err(UrlError::Https(_))));
        for text in [
            "",
            "localhost:80",
            "ftp://x",
            "http://",
            "http:///path",
            "http://a b/",
            "http://x/a b",
            "http://u@h/",
            "http://x/\r\nHost: y",
        ] {
            assert!(matches!(text.parse::<Url>(), Err(UrlError::Form(_))), "{text}");
        }
    }

    #[test]
    fn a_missing_port_is_80() {
        for (text, address) in [
            ("http://127.0.0.1/", "127.0.0.1:80"),
            ("http://[::1]/", "[::1]:80"),
            ("http://127.0.0.1:81/", "127.0.0.1:81"),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!(url.resolve().expect(text).to_string(), address);
        }
    }
}
