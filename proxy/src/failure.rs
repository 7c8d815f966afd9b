//! Failures between a request and its response head, with their names, statuses and texts.

use std::io;
use std::time::Duration;

use pingora::ErrorType;
use pingora::prelude::Error;
use thiserror::Error as ThisError;

use crate::stream::Side;

/// Why a request that was taken over got no response from the upstream.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Failure {
    /// No server of the upstream could be connected to.
    #[error("cannot connect to upstream {peer}")]
    Connect {
        /// The last server that was tried.
        peer: String,
        /// The error of the connection attempt.
        #[source]
        source: Box<Error>,
    },
    /// A connection took longer than `timeouts.connect`.
    #[error("connecting to upstream {peer} took longer than timeouts.connect ({limit:?})")]
    ConnectTimeout {
        /// The last server that was tried.
        peer: String,
        /// The limit that was hit.
        limit: Duration,
    },
    /// The upstream has no server, or its names do not resolve.
    #[error("the upstream has no server to connect to")]
    NoServer,
    /// No response head within `timeouts.first_byte`.
    #[error("the upstream sent no response head within timeouts.first_byte ({limit:?})")]
    FirstByteTimeout {
        /// The limit that was hit.
        limit: Duration,
    },
    /// The upstream closed, reset or garbled its connection instead of answering.
    #[error("{}", broken_text(source))]
    Broken {
        /// The error of reading or writing.
        #[source]
        source: Box<Error>,
    },
    /// A response head, interim or final, is larger than `limits.response_header`.
    #[error("the upstream sent a response head larger than limits.response_header ({limit} bytes)")]
    HeadTooLarge {
        /// The limit that was hit, in bytes.
        limit: usize,
    },
    /// The upstream's response cannot be passed on safely.
    #[error("the upstream's response head cannot be passed on: {source}")]
    Invalid {
        /// What is wrong with it.
        source: crate::headers::FramingError,
    },
    /// The upstream switched protocols without a request to (RFC 9110 §7.8).
    #[error("the upstream switched protocols without being asked to")]
    Switched,
    /// The client's request body is malformed.
    #[error("the request body cannot be understood")]
    BadRequest {
        /// What reading it said.
        #[source]
        source: Box<Error>,
    },
    /// The client sent no byte of its request body for `client.timeouts.body`.
    #[error("the request body took longer than client.timeouts.body")]
    RequestTimeout {
        /// What reading it said.
        #[source]
        source: Box<Error>,
    },
    /// The client read no byte of a response head, interim or final, for `timeouts.write`.
    #[error("the client read nothing of the response head within timeouts.write ({limit:?})")]
    WriteTimeout {
        /// The limit that was hit.
        limit: Duration,
    },
    /// The client closed the connection, or aborted its request.
    #[error("the client closed the connection before the response")]
    ClientGone {
        /// What reading from it said.
        #[source]
        source: Box<Error>,
    },
}

impl Failure {
    /// The name used in metrics and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect_failed",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::NoServer => "no_server",
            Self::FirstByteTimeout { .. } => "first_byte_timeout",
            Self::Broken { .. } => "upstream_broken",
            Self::HeadTooLarge { .. } => "response_head_too_large",
            Self::Invalid { .. } | Self::Switched => "upstream_invalid",
            Self::BadRequest { .. } => "bad_request",
            Self::RequestTimeout { .. } => "request_timeout",
            Self::WriteTimeout { .. } => "write_timeout",
            Self::ClientGone { .. } => "client_gone",
        }
    }

    /// Every name, for tables with a row for each.
    pub const NAMES: &'static [&'static str] = &[
        "connect_failed",
        "connect_timeout",
        "no_server",
        "first_byte_timeout",
        "upstream_broken",
        "response_head_too_large",
        "upstream_invalid",
        "bad_request",
        "request_timeout",
        "write_timeout",
        "client_gone",
    ];

    /// Classifies an error of reading a request's body.
    pub(crate) fn of_request_body(source: Box<Error>) -> Self {
        match source.etype() {
            _ if is_malformed_body(&source) => Self::BadRequest { source },
            ErrorType::ReadTimedout => Self::RequestTimeout { source },
            ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::H2Error => Self::ClientGone { source },
            _ => Self::BadRequest { source },
        }
    }

    /// The side that failed.
    pub fn side(&self) -> Side {
        match self {
            Self::ClientGone { .. }
            | Self::BadRequest { .. }
            | Self::RequestTimeout { .. }
            | Self::WriteTimeout { .. } => Side::Downstream,
            _ => Side::Upstream,
        }
    }

    /// The status of the response to the client: 400, 408, 502 or 504. For [`Failure::ClientGone`] and
    /// [`Failure::WriteTimeout`] nothing is sent.
    pub fn status(&self) -> u16 {
        match self {
            Self::ConnectTimeout { .. } | Self::FirstByteTimeout { .. } => 504,
            Self::BadRequest { .. } => 400,
            Self::RequestTimeout { .. } => 408,
            _ => 502,
        }
    }

    /// The text of the response to the client. It omits the server's address, which only the log contains.
    pub fn public_text(&self) -> String {
        match self {
            Self::Connect { .. } => match self.proxy_status() {
                "tls_certificate_error" => "the upstream's certificate cannot be verified",
                "tls_protocol_error" => "the TLS handshake with the upstream failed",
                _ => "cannot connect to the upstream",
            }
            .to_owned(),
            Self::ConnectTimeout { limit, .. } => {
                format!("connecting to the upstream took longer than timeouts.connect ({limit:?})")
            }
            other => other.to_string(),
        }
    }

    /// The error type of RFC 9209 §2.3.
    pub fn proxy_status(&self) -> &'static str {
        match self {
            Self::Connect { source, .. } => connect_status(source),
            Self::ConnectTimeout { .. } => "connection_timeout",
            Self::NoServer => "destination_unavailable",
            Self::FirstByteTimeout { .. } => "http_response_timeout",
            Self::Broken { .. } => "connection_terminated",
            Self::HeadTooLarge { .. } => "http_response_header_section_size",
            Self::Invalid { .. } | Self::Switched => "http_protocol_error",
            Self::ClientGone { .. }
            | Self::BadRequest { .. }
            | Self::RequestTimeout { .. }
            | Self::WriteTimeout { .. } => "http_request_error",
        }
    }
}

fn broken_text(source: &Error) -> &'static str {
    match source.etype() {
        ErrorType::InvalidHTTPHeader => "the upstream's response head is not HTTP, or has more than 256 fields",
        _ => "the upstream broke off before its response head was complete",
    }
}

/// Whether reading a request's body failed because of its framing, not its connection.
pub(crate) fn is_malformed_body(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// The error type of RFC 9209 §2.3 for a connection that could not be made.
pub(crate) fn connect_status(source: &Error) -> &'static str {
    match source.etype() {
        ErrorType::ConnectRefused => "connection_refused",
        ErrorType::ConnectNoRoute => "destination_ip_unroutable",
        ErrorType::ConnectTimedout => "connection_timeout",
        ErrorType::InvalidCert => "tls_certificate_error",
        ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout | ErrorType::HandshakeError => {
            // Only the text of rustls' error identifies a certificate that was not accepted.
            if source.to_string().contains("invalid peer certificate") {
                "tls_certificate_error"
            } else {
                "tls_protocol_error"
            }
        }
        _ => "destination_unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, with its status and side.
    fn failures() -> Vec<(Failure, u16, Side)> {
        let (peer, limit) = (String::new(), Duration::from_secs(3));
        let source = || Error::new(ErrorType::ReadError);
        let framing = crate::headers::FramingError::ContentLength("1, 2".to_owned());
        vec![
            (Failure::Connect { peer: peer.clone(), source: source() }, 502, Side::Upstream),
            (Failure::ConnectTimeout { peer, limit }, 504, Side::Upstream),
            (Failure::NoServer, 502, Side::Upstream),
            (Failure::FirstByteTimeout { limit }, 504, Side::Upstream),
            (Failure::Broken { source: source() }, 502, Side::Upstream),
            (Failure::HeadTooLarge { limit: 1024 }, 502, Side::Upstream),
            (Failure::Invalid { source: framing }, 502, Side::Upstream),
            (Failure::Switched, 502, Side::Upstream),
            (Failure::BadRequest { source: source() }, 400, Side::Downstream),
            (Failure::RequestTimeout { source: source() }, 408, Side::Downstream),
            (Failure::WriteTimeout { limit }, 502, Side::Downstream),
            (Failure::ClientGone { source: source() }, 502, Side::Downstream),
        ]
    }

    #[test]
    fn each_failure_has_its_status_and_side_and_a_name_that_is_listed() {
        for (failure, status, side) in failures() {
            assert_eq!((failure.status(), failure.side()), (status, side), "{failure}");
        }
        let mut names: Vec<_> = failures().iter().map(|(failure, ..)| failure.as_str()).collect();
        names.dedup();
        assert_eq!(names, Failure::NAMES);
    }
}
