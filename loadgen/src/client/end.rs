//! Why a stream ended, or did not open.

use std::fmt;
use std::io;

use h2::Reason;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::wire::head::{HeadError, MAX_FIELDS, MAX_HEAD_BYTES};

/// The one reason a stream ended. Its text is what reports count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The body ended as its framing says.
    CleanEnd,
    /// The body ended cleanly, but inside a record.
    EndInsideRecord,
    /// The connection ended before the body did.
    Truncated,
    /// The connection was reset.
    Reset,
    /// The connection was refused.
    Refused,
    /// The host has no address of the source's family.
    NoAddress,
    /// There is no free source port.
    NoPort,
    /// There is no free file descriptor.
    NoDescriptor,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The response head did not arrive in time.
    HeadTimeout,
    /// Another status than 200.
    Status(u16),
    /// A 200 of another media type.
    NotEventStream,
    /// A stream in this content coding, which was not requested and hides the events.
    ContentCoding(&'static str),
    /// The response head has more fields than the limit.
    TooManyFields,
    /// The response head is longer than this limit in bytes.
    HeadTooLong(usize),
    /// Not HTTP, broken chunked coding, or what HTTP/2 forbids.
    Malformed,
    /// The server's certificate is not trusted.
    Certificate(&'static str),
    /// The peer does not speak TLS.
    NotTls,
    /// TLS failed otherwise: no version or cipher in common, a certificate of ours wanted, a broken record.
    Tls,
    /// The server does not speak HTTP/2 there.
    NoHttp2,
    /// The server's limit of streams on a connection, which this one would exceed.
    StreamLimit(usize),
    /// The server reset the stream (HTTP/2 RST_STREAM).
    RstStream(Reason),
    /// The server closed the connection (HTTP/2 GOAWAY).
    GoAway(Reason),
    /// Any other error of the system.
    Io,
}

impl EndReason {
    /// Reads the reason out of a system error.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        use rustix::io::Errno;

        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Self::NoPort,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            // What a TLS connection says that ends without saying so.
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ if is(Errno::MFILE) || is(Errno::NFILE) => Self::NoDescriptor,
            _ if tls_cause(error).is_some() => Self::Tls,
            _ => Self::Io,
        }
    }

    /// The same for what is read once a connection is established.
    #[must_use]
    pub fn from_read(error: &io::Error) -> Self {
        match Self::from_io(error) {
            // Then a timeout is the network's: the peer has vanished.
            Self::ConnectTimeout => Self::Reset,
            reason => reason,
        }
    }

    /// Reads the reason out of a head that cannot be used.
    #[must_use]
    pub fn from_head(error: HeadError) -> Self {
        match error {
            HeadError::Malformed => Self::Malformed,
            HeadError::TooManyFields => Self::TooManyFields,
            HeadError::TooLong => Self::HeadTooLong(MAX_HEAD_BYTES),
        }
    }

    /// The same for a TLS handshake.
    #[must_use]
    pub fn from_handshake(error: &io::Error) -> Self {
        match tls_cause(error) {
            Some(TlsError::InvalidCertificate(fault)) => Self::Certificate(certificate_fault(fault)),
            Some(TlsError::InvalidMessage(_)) => Self::NotTls,
            Some(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)) => Self::NoHttp2,
            Some(_) => Self::Tls,
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Tls,
            None => Self::from_io(error),
        }
    }
}

/// The error of the TLS library inside one of the system's, if there is one.
fn tls_cause(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

/// The faults that have different remedies by name.
fn certificate_fault(fault: &CertificateError) -> &'static str {
    match fault {
        // An authority of the same name with another key has not signed it either.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => "unknown_issuer",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_valid_yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "other_name",
        _ => "invalid",
    }
}

/// The name of an error code, RFC 9113 §7, in lower case; a number when it has none.
fn code(reason: Reason) -> String {
    let name = format!("{reason:?}");
    if name.contains('(') { format!("{:#x}", u32::from(reason)) } else { name.to_lowercase() }
}

impl fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match self {
            Self::CleanEnd => "clean_end",
            Self::EndInsideRecord => "end_inside_record",
            Self::Truncated => "truncated",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::NoAddress => "no_address",
            Self::NoPort => "no_port",
            Self::NoDescriptor => "no_descriptor",
            Self::ConnectTimeout => "connect_timeout",
            Self::HeadTimeout => "head_timeout",
            Self::Status(status) => return write!(formatter, "status_{status}"),
            Self::NotEventStream => "not_event_stream",
            Self::ContentCoding(coding) => return write!(formatter, "content_coding_{coding}"),
            Self::TooManyFields => return write!(formatter, "head_over_{MAX_FIELDS}_fields"),
            Self::HeadTooLong(limit) => return write!(formatter, "head_over_{}_kib", limit / 1024),
            Self::Malformed => "malformed",
            Self::Certificate(fault) => return write!(formatter, "certificate_{fault}"),
            Self::NotTls => "not_tls",
            Self::Tls => "tls_failed",
            Self::NoHttp2 => "no_http2",
            Self::StreamLimit(limit) => return write!(formatter, "stream_limit_{limit}"),
            Self::RstStream(reason) => return write!(formatter, "rst_stream_{}", code(*reason)),
            Self::GoAway(reason) => return write!(formatter, "goaway_{}", code(*reason)),
            Self::Io => "io_error",
        };
        formatter.write_str(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_codes_are_named_as_the_rfc_names_them() {
        assert_eq!(EndReason::RstStream(Reason::INTERNAL_ERROR).to_string(), "rst_stream_internal_error");
        assert_eq!(EndReason::GoAway(Reason::NO_ERROR).to_string(), "goaway_no_error");
        assert_eq!(EndReason::RstStream(Reason::from(0x2a)).to_string(), "rst_stream_0x2a");
    }

    #[test]
    fn each_way_a_handshake_fails_has_its_name() {
        let reason = |error: TlsError| EndReason::from_handshake(&io::Error::other(error)).to_string();
        assert_eq!(reason(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)), "certificate_unknown_issuer");
        assert_eq!(reason(TlsError::InvalidCertificate(CertificateError::BadEncoding)), "certificate_invalid");
        assert_eq!(reason(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)), "no_http2");
        assert_eq!(reason(TlsError::AlertReceived(AlertDescription::HandshakeFailure)), "tls_failed");
    }
}
