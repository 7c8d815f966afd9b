//! The protocol between clients and target, and how many streams share a connection.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::url::Scheme;

/// How many streams share an HTTP/2 connection unless it is said otherwise. A browser has one connection to a site and puts
/// all of its streams there, up to the server's limit; RFC 9113 §6.5.2 recommends that servers allow no fewer than this.
pub const STREAMS_PER_CONNECTION: u64 = 100;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1
    #[default]
    #[value(alias = "http")]
    H1,
    /// HTTP/1.1 over TLS
    Tls,
    /// HTTP/2 over TLS, chosen by ALPN
    H2,
    /// HTTP/2 without TLS, with prior knowledge
    H2c,
}

/// The protocol of clients, and how many of their streams share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientProtocol {
    /// What they speak.
    pub protocol: Protocol,
    /// How many of their streams share a connection.
    pub streams_per_connection: u64,
}

impl Default for ClientProtocol {
    /// HTTP/1.1, which has no connections to share.
    fn default() -> Self {
        Self::new(Protocol::H1, None)
    }
}

impl ClientProtocol {
    /// `protocol`, with the requested number of streams per connection where it can have more than one.
    #[must_use]
    pub fn new(protocol: Protocol, asked: Option<u64>) -> Self {
        Self { protocol, streams_per_connection: protocol.streams_per_connection(asked) }
    }
}

impl Protocol {
    /// What the scheme of a URL and the wish for HTTP/2 come to.
    #[must_use]
    pub fn of(is_https: bool, wants_http2: bool) -> Self {
        match (is_https, wants_http2) {
            (false, false) => Self::H1,
            (true, false) => Self::Tls,
            (true, true) => Self::H2,
            (false, true) => Self::H2c,
        }
    }

    /// Its name, as in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::Tls => "tls",
            Self::H2 => "h2",
            Self::H2c => "h2c",
        }
    }

    /// The scheme of a URL where it is spoken.
    #[must_use]
    pub fn scheme(self) -> Scheme {
        if self.has_tls() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2)
    }

    /// Whether streams share a connection.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::H2c)
    }

    /// How many streams share a connection when `asked` is requested.
    #[must_use]
    pub fn streams_per_connection(self, asked: Option<u64>) -> u64 {
        if self.is_http2() { asked.unwrap_or(STREAMS_PER_CONNECTION) } else { 1 }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_same_everywhere() {
        for protocol in Protocol::value_variants() {
            let value = protocol.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), protocol.name());
            assert_eq!(serde_json::to_value(protocol).expect("plain"), protocol.name());
        }
    }

    #[test]
    fn only_http2_shares_connections() {
        let shared: Vec<u64> =
            Protocol::value_variants().iter().map(|protocol| protocol.streams_per_connection(Some(7))).collect();
        assert_eq!(shared, [1, 1, 7, 7]);
        assert_eq!(Protocol::H2.streams_per_connection(None), STREAMS_PER_CONNECTION);
    }
}
