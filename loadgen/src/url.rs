//! The addresses a run is pointed at: `http[s]://host[:port][/path][?query]`, and nothing else.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
}

/// A parsed URL, not yet resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Host and port as written, for the `Host` header.
    pub authority: String,
    /// Path and query as they go into the request line.
    pub path: String,
}

/// Why a URL cannot be used.
#[derive(Debug, Error)]
pub enum UrlError {
    /// Not a URL of the supported form.
    #[error("`{0}`: expected http://host[:port][/path] or https://host[:port][/path]")]
    Form(String),
    /// Not an address where TLS is of any use.
    #[error("`{0}`: https is not supported here (use http://host[:port][/path])")]
    Plain(String),
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
        let form = || UrlError::Form(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let scheme = match scheme {
            name if name.eq_ignore_ascii_case("http") => Scheme::Http,
            name if name.eq_ignore_ascii_case("https") => Scheme::Https,
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
        Ok(Self { scheme, authority: authority.to_owned(), path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}{}", self.scheme.name(), self.authority, self.path)
    }
}

impl Scheme {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Url {
    /// The host without its port, and without brackets: what a certificate is for.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        }
    }

    /// Refuses https, for addresses that are asked in plaintext.
    ///
    /// # Errors
    /// When it is https.
    pub fn plain(self) -> Result<Self, UrlError> {
        match self.scheme {
            Scheme::Http => Ok(self),
            Scheme::Https => Err(UrlError::Plain(self.to_string())),
        }
    }

    /// All addresses the host resolves to, in the resolver's order; the scheme's port (80, 443) unless one is given.
    ///
    /// # Errors
    /// When there is none.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, UrlError> {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok())
            && (!self.authority.starts_with('[') || self.authority.contains("]:"));
        let with_port = if has_port {
            self.authority.clone()
        } else {
            format!("{}:{}", self.authority, self.scheme.default_port())
        };
        let refuse = |source| UrlError::Resolve { authority: self.authority.clone(), source };
        let addresses: Vec<SocketAddr> = with_port.to_socket_addrs().map_err(refuse)?.collect();
        if addresses.is_empty() { Err(refuse(std::io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        for (text, authority, host, path) in [
            ("http://127.0.0.1:9000/events?interval=1s", "127.0.0.1:9000", "127.0.0.1", "/events?interval=1s"),
            ("HTTP://localhost", "localhost", "localhost", "/"),
            ("http://localhost?x=1#part", "localhost", "localhost", "/?x=1"),
            ("http://[::1]:80/", "[::1]:80", "::1", "/"),
            ("https://sse.example:8443/a", "sse.example:8443", "sse.example", "/a"),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!((url.authority.as_str(), url.host(), url.path.as_str()), (authority, host, path));
        }
        assert_eq!("HTTPS://h/x".parse::<Url>().expect("valid").to_string(), "https://h/x");
    }

    #[test]
    fn what_is_not_http_is_refused_with_a_reason() {
        for text in [
            "",
            "localhost:80",
            "ftp://x",
            "http://",
            "https://",
            "https:/x",
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
    fn a_missing_port_is_that_of_the_scheme() {
        for (text, address) in [
            ("http://127.0.0.1/", "127.0.0.1:80"),
            ("http://[::1]/", "[::1]:80"),
            ("https://127.0.0.1/", "127.0.0.1:443"),
            ("https://[::1]/", "[::1]:443"),
            ("http://127.0.0.1:81/", "127.0.0.1:81"),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!(url.resolve().expect(text), [address.parse().expect("an address")], "{text}");
        }
    }

    #[test]
    fn what_is_asked_in_plaintext_cannot_be_https() {
        let parse = |text: &str| text.parse::<Url>().expect(text);
        assert!(matches!(parse("https://x/").plain(), Err(UrlError::Plain(_))));
        assert!(parse("http://x/").plain().is_ok());
    }
}
