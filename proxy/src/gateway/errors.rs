//! What the errors of Pingora mean to the client and in the log.

use pingora::prelude::Error;
use pingora::{ErrorSource, ErrorType};

use crate::failure::{connect_status, is_malformed_body};
use crate::takeover::Refusal;

/// The side that failed, as the log names it.
pub(super) fn side(error: &Error) -> &'static str {
    match error.esource() {
        ErrorSource::Upstream => "upstream",
        ErrorSource::Downstream => "downstream",
        ErrorSource::Internal | ErrorSource::Unset => "internal",
    }
}

/// The response to a request that failed; `None` if the client has closed the connection.
pub(super) fn describe(error: &Error) -> Option<Refusal> {
    use ErrorType as Type;
    let (status, text, proxy_status) = match (error.esource(), error.etype()) {
        (_, Type::HTTPStatus(status)) => (*status, "the request cannot be served", "proxy_internal_error"),
        (ErrorSource::Upstream, Type::ConnectTimedout) => {
            (504, "connecting to the upstream took too long", "connection_timeout")
        }
        (ErrorSource::Upstream, Type::ReadTimedout | Type::WriteTimedout) => {
            (504, "the upstream took too long", "http_response_timeout")
        }
        (ErrorSource::Upstream, Type::ConnectRefused | Type::ConnectNoRoute | Type::ConnectError) => {
            (502, "cannot connect to the upstream", connect_status(error))
        }
        (
            ErrorSource::Upstream,
            Type::InvalidCert | Type::TLSHandshakeFailure | Type::TLSHandshakeTimedout | Type::HandshakeError,
        ) => match connect_status(error) {
            "tls_certificate_error" => (502, "the upstream's certificate cannot be verified", "tls_certificate_error"),
            proxy_status => (502, "the TLS handshake with the upstream failed", proxy_status),
        },
        (ErrorSource::Upstream, _) => (502, "the upstream broke off", "connection_terminated"),
        (ErrorSource::Downstream, Type::ReadTimedout) => {
            (408, "the request body took longer than client.timeouts.body", "http_request_error")
        }
        (ErrorSource::Downstream, Type::ReadError) if is_malformed_body(error) => {
            (400, "the request body cannot be understood", "http_request_error")
        }
        (
            ErrorSource::Downstream,
            Type::WriteError | Type::WriteTimedout | Type::ReadError | Type::ConnectionClosed,
        ) => {
            return None;
        }
        (ErrorSource::Downstream, _) => (400, "the request cannot be understood", "http_request_error"),
        _ => (500, "the proxy failed", "proxy_internal_error"),
    };
    Some(Refusal { status, text: text.into(), proxy_status })
}
