//! The proxy's own error responses, in one form for everything that is refused or fails.

use std::borrow::Cow;

use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{Method, ResponseHeader};
use pingora::prelude::{Error, Result};
use pingora::proxy::Session;

use crate::failure::Failure;
use crate::headers;

/// An error response of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// What failed, in a sentence.
    pub text: Cow<'static, str>,
    /// The error type of RFC 9209 §2.3.
    pub proxy_status: &'static str,
}

impl From<&Failure> for Refusal {
    fn from(failure: &Failure) -> Self {
        Self { status: failure.status(), text: failure.public_text().into(), proxy_status: failure.proxy_status() }
    }
}

impl Refusal {
    /// Writes it, unless a response has begun. The connection is not reused.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write(&self, session: &mut Session) -> Result<()> {
        let (head, mut body) = self.response()?;
        if session.req_header().method == Method::HEAD {
            // The length stays. Over HTTP/2 Pingora's session would send what it is given.
            body.clear();
        }
        let written = session.downstream_session.write_error_response(head, Bytes::from(body)).await;
        written.map_err(|error| error.into_down())
    }

    /// Its head and body.
    ///
    /// # Errors
    /// When the head cannot be built.
    pub(super) fn response(&self) -> Result<(ResponseHeader, String)> {
        let body = format!("{} {}\n", self.status, self.text);
        let mut head = ResponseHeader::build(self.status, Some(5))?;
        head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
        head.insert_header("Content-Length", body.len())?;
        head.insert_header("Cache-Control", "no-store")?;
        head.insert_header("Proxy-Status", self.proxy_status_value())?;
        Ok((head, body))
    }

    /// The value of `Proxy-Status` (RFC 9209 §2).
    pub(super) fn proxy_status_value(&self) -> String {
        format!("{}; error={}", headers::PSEUDONYM, self.proxy_status)
    }
}

/// Answers a request that got no response from the upstream.
///
/// # Errors
/// When the response cannot be written; and always for a client that has closed the connection, so that no other
/// response is tried.
pub(super) async fn answer(session: &mut Session, failure: Failure) -> Result<()> {
    match failure {
        Failure::ClientGone { source } => {
            Error::e_because(ErrorType::ConnectionClosed, "before the response head", source)
                .map_err(|error: Box<Error>| error.into_down())
        }
        // Part of a response head has been sent: no other response can follow it. Pingora would follow `WriteTimedout` with 400.
        failure if matches!(failure, Failure::WriteTimeout { .. }) || is_writing(session) => {
            Error::e_explain(ErrorType::WriteError, failure.to_string()).map_err(|error: Box<Error>| error.into_down())
        }
        failure => Refusal::from(&failure).write(session).await,
    }
}

/// Whether part of an interim response waits to be written.
fn is_writing(session: &Session) -> bool {
    session.as_http1().is_some_and(|session| session.has_pending_proxy_tasks())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use pingora::prelude::{HttpPeer, ProxyHttp};

    use super::*;

    /// A proxy with Pingora's own answers to errors.
    struct Embedder;

    #[async_trait]
    impl ProxyHttp for Embedder {
        type CTX = ();
        fn new_ctx(&self) {}

        async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
            Error::e_explain(ErrorType::InternalError, "not called")
        }
    }

    /// Invariant: nothing follows part of a response head. Mechanism: Pingora answers an error of the client by 400, unless it is one of
    /// writing, reading or closing. Symptom: a client that reads late finds a second head within the first.
    #[tokio::test]
    async fn nothing_is_sent_to_a_client_that_is_gone_or_does_not_read() {
        let source = Error::new(ErrorType::ReadError);
        for failure in [Failure::WriteTimeout { limit: Duration::from_secs(1) }, Failure::ClientGone { source }] {
            let (_client, session) = tokio::io::duplex(1024);
            let mut session = Session::new_h1(Box::new(session));
            let what = failure.to_string();
            let error = answer(&mut session, failure).await.expect_err("an error for Pingora");
            let answered = Embedder.fail_to_proxy(&mut session, &error, &mut ()).await;
            assert_eq!((answered.error_code, session.response_written().is_some()), (0, false), "{what}");
        }
    }
}
