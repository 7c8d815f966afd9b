//! The answer to a request whose upstream failed before its response head: for an `EventSource`, where the route says so, one
//! after which it comes back; otherwise an error.

use pingora::prelude::Result;
use pingora::proxy::Session;

use super::refuse::{self, Refusal};
use super::retry_later::{RetryAfter, RetryAnswer, RetryPolicy, is_event_source};
use crate::failure::Failure;
use crate::stream::{Policy, Side};

/// Answers a request that got no response from the upstream.
///
/// # Errors
/// As [`refuse::answer`].
pub(super) async fn answer(session: &mut Session, failure: Failure, policy: &Policy) -> Result<()> {
    match &policy.retry_unavailable {
        Some(range) if comes_back(session, &failure) => {
            let after = RetryAfter { min: *range.start(), max: *range.end() };
            let retry = RetryPolicy { answer: RetryAnswer::RetryLater, after };
            let later = retry.answer(session.req_header(), fastrand::f64());
            later.write(session, &Refusal::from(&failure)).await
        }
        _ => refuse::answer(session, failure).await,
    }
}

/// Whether the client would come back, and nothing has been sent to it.
fn comes_back(session: &Session, failure: &Failure) -> bool {
    failure.side() == Side::Upstream && is_event_source(session.req_header()) && !refuse::is_writing(session)
}
