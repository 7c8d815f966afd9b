//! The beginning of an event stream: its parameters, and its head as it goes to the client.

use std::sync::Arc;

use http::HeaderValue;
use pingora::http::{ResponseHeader, Version};
use pingora::prelude::Result;

use crate::headers::{self, HeadRules};
use crate::stream::{Framing, Opening, Policy};
use crate::wire::body::Body;

/// The framing of a stream's body for a client of this version.
pub(crate) fn stream_framing(version: Version) -> Framing {
    match version {
        Version::HTTP_11 => Framing::Chunked,
        Version::HTTP_2 => Framing::Http2,
        _ => Framing::Plain,
    }
}

/// The stream's parameters. `head` is the upstream's; `random` is uniform in 0..1.
pub(crate) fn opening(
    policy: &Arc<Policy>,
    framing: Framing,
    body: Body,
    head: &ResponseHeader,
    random: f64,
) -> Opening {
    Opening { policy: policy.clone(), body, framing, identity: headers::is_identity(head), random, lifetime: None }
}

/// Completes a stream's head for a client of this framing; `rules` are those of its route. "An origin server with a clock … MUST generate a Date header
/// field in all 2xx" responses, and a recipient that forwards a response without it adds it (RFC 9110 §6.6.1).
///
/// # Errors
/// When a header cannot be built.
pub(crate) fn finish_stream_head(
    response: &mut ResponseHeader,
    framing: Framing,
    date: impl FnOnce() -> HeaderValue,
    rules: Option<&HeadRules>,
) -> Result<()> {
    headers::stream_response(response, framing == Framing::Chunked)?;
    if !response.headers.contains_key("date") {
        response.insert_header("Date", date())?;
    }
    // A stream ends with its connection. HTTP/2 has no connection fields (RFC 9113 §8.2.2).
    if framing != Framing::Http2 {
        response.insert_header("Connection", "close")?;
    }
    rules.map_or(Ok(()), |rules| rules.change_response(response))
}
