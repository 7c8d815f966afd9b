//! Hooks for a proxy that embeds the plugin: changes to a request and to a stream's response head.

use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;
use pingora::proxy::Session;

/// Changes the heads of a request that [`Takeover::take_over_with`](super::Takeover::take_over_with) carries. Both methods do
/// nothing by default; `()` changes nothing.
///
/// The hook for responses is for streams only; the head of any other response goes through downstream modules alone.
///
/// A hook belongs to one call, so it may hold what is known of the request:
///
/// ```
/// use pingora::http::{RequestHeader, ResponseHeader};
/// use pingora::prelude::Result;
/// use pingora::proxy::Session;
/// use sse_proxy::Hooks;
///
/// struct ForUser<'a>(&'a str);
///
/// impl Hooks for ForUser<'_> {
///     fn upstream_request(&self, _: &Session, request: &mut RequestHeader) -> Result<()> {
///         request.insert_header("X-User", self.0)
///     }
///
///     fn stream_response(&self, _: &Session, response: &mut ResponseHeader) -> Result<()> {
///         response.remove_header("X-Backend");
///         Ok(())
///     }
/// }
/// ```
pub trait Hooks: Send + Sync {
    /// Called with the request as it is about to be sent: connection fields and what untrusted clients say about themselves
    /// removed, forwarding fields added. What this sets is sent as it is.
    ///
    /// # Errors
    /// Nothing is sent to the upstream. Pingora's `fail_to_proxy` answers the error: an
    /// [`HTTPStatus`](pingora::ErrorType::HTTPStatus) by that status, others mostly by 500. The observer is not told.
    fn upstream_request(&self, session: &Session, request: &mut RequestHeader) -> Result<()> {
        let _ = (session, request);
        Ok(())
    }

    /// Called with the response head of an event stream before it is written to the client. Fields that frame the body are
    /// set by the proxy, whatever this does.
    ///
    /// # Errors
    /// The upstream's connection is closed, and the error is answered as that of [`Hooks::upstream_request`].
    fn stream_response(&self, session: &Session, response: &mut ResponseHeader) -> Result<()> {
        let _ = (session, response);
        Ok(())
    }
}

impl Hooks for () {}
