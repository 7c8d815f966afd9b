//! Why a request is refused, and the response that says so.

use thiserror::Error;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The first bytes are those of a TLS handshake.
    #[error("this port speaks plain HTTP, and the client began a TLS handshake")]
    TlsOnPlainPort,
    /// Not `method SP target SP HTTP/1.x` (RFC 9112 §3).
    #[error("the request line is malformed")]
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("the HTTP version is not supported on this connection")]
    Version,
    /// A target in none of the forms of RFC 9112 §3.2.
    #[error("the request target is malformed")]
    Target,
    /// A target longer than `HeadLimits::target_bytes`.
    #[error("the request target is longer than client.limits.target")]
    TargetTooLong,
    /// CONNECT or TRACE.
    #[error("the method is not allowed")]
    Method,
    /// A field line that is malformed or folded (RFC 9112 §5).
    #[error("a header field is malformed")]
    Field,
    /// A head longer than `HeadLimits::head_bytes`.
    #[error("the request head is longer than client.limits.header")]
    HeadTooLarge,
    /// More fields than `HeadLimits::fields`.
    #[error("the request has more header fields than client.limits.fields")]
    TooManyFields,
    /// No Host in HTTP/1.1, two of them, or a malformed one (RFC 9112 §3.2).
    #[error("the Host header field is missing, repeated or malformed")]
    Host,
    /// A `Connection` option that is not a token, or names a field that it must not remove (RFC 9110 §7.6.1).
    #[error("the Connection header field is malformed")]
    Connection,
    /// A `Content-Length` that is not one number (RFC 9110 §8.6).
    #[error("the Content-Length header field is malformed")]
    ContentLength,
    /// A `Transfer-Encoding` that does not end the message, or in HTTP/1.0 (RFC 9112 §6.1).
    #[error("the Transfer-Encoding header field is malformed")]
    TransferEncoding,
    /// A transfer coding other than chunked.
    #[error("the request uses a transfer coding other than chunked")]
    TransferCoding,
    /// `Content-Length` and `Transfer-Encoding` in one head, which is how requests are smuggled (RFC 9112 §11.2).
    #[error("the request has both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// The head took longer than `client.timeouts.header`.
    #[error("the request head took longer than client.timeouts.header")]
    HeadTimeout,
}

impl Refusal {
    /// The status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::HeadTimeout => 408,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// The name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::RequestLine => "bad_request_line",
            Self::Version => "unsupported_version",
            Self::Target => "bad_target",
            Self::TargetTooLong => "target_too_long",
            Self::Method => "method_not_allowed",
            Self::Field => "bad_field",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::Host => "bad_host",
            Self::Connection => "bad_connection",
            Self::ContentLength => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::TransferCoding => "unsupported_coding",
            Self::TwoLengths => "two_lengths",
            Self::HeadTimeout => "head_timeout",
        }
    }

    /// The complete response, after which the connection closes.
    pub fn response(self) -> Vec<u8> {
        let status = self.status();
        let phrase = match status {
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            414 => "URI Too Long",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            505 => "HTTP Version Not Supported",
            _ => "Bad Request",
        };
        // "The origin server MUST generate an Allow header field in a 405 response" (RFC 9110 §15.5.6).
        let allow = if status == 405 { "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" } else { "" };
        let body = format!("{status} {self}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nProxy-Status: sse-proxy; error=http_request_error\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}
