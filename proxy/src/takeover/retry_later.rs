//! The answer to a request that cannot be served now: either what makes an `EventSource` come back later, or an error
//! that says when to try again.
//!
//! An `EventSource` reports any status but 200 as fatal and never reconnects (WHATWG HTML §9.2.3, "fail the
//! connection"). It does reconnect after a response with status 200 that ends, after the time in its last `retry:`
//! field. Other clients understand a status and `Retry-After` (RFC 9110 §10.2.3).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use pingora::http::{Method, RequestHeader, ResponseHeader};
use pingora::prelude::Result;
use pingora::protocols::http::date::get_cached_date;
use pingora::proxy::Session;

use super::refuse::Refusal;
use crate::headers;

/// Which answer a request gets that cannot be served now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum RetryAnswer {
    /// An `EventSource` gets [`RetryAnswer::RetryLater`], every other client [`RetryAnswer::Reject`].
    #[default]
    Auto,
    /// 200, an event stream with one `retry:` field, and its end.
    RetryLater,
    /// An error with `Retry-After`.
    Reject,
}

/// When clients are asked to come back: a random time in this range, so that they do not all come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    /// The shortest time.
    pub min: Duration,
    /// The longest time.
    pub max: Duration,
}

/// How the requests of a route are answered that cannot be served now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Which answer.
    pub answer: RetryAnswer,
    /// When to come back.
    pub after: RetryAfter,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLater {
    is_event_stream: bool,
    wait: Duration,
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self { min: Duration::from_secs(5), max: Duration::from_secs(30) }
    }
}

impl RetryAfter {
    /// A time in the range. `random` is uniform in 0..1.
    fn pick(self, random: f64) -> Duration {
        self.min + self.max.saturating_sub(self.min).mul_f64(random.clamp(0.0, 1.0))
    }
}

impl RetryPolicy {
    /// The answer to `request`. `random` is uniform in 0..1.
    pub fn answer(&self, request: &RequestHeader, random: f64) -> RetryLater {
        let is_event_stream = match self.answer {
            RetryAnswer::Auto => is_event_source(request),
            RetryAnswer::RetryLater => true,
            RetryAnswer::Reject => false,
        };
        RetryLater { is_event_stream, wait: self.after.pick(random) }
    }
}

impl RetryLater {
    /// The response's head and body. `refusal` is the error, where it is one, and its `Proxy-Status` in any case.
    ///
    /// # Errors
    /// When the head cannot be built.
    pub fn response(self, request: &RequestHeader, refusal: &Refusal) -> Result<(ResponseHeader, String)> {
        if !self.is_event_stream {
            let (mut head, body) = refusal.response()?;
            // A client that comes back early is refused again.
            let seconds = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
            head.insert_header("Retry-After", seconds)?;
            return Ok((head, body));
        }
        let body = format!("retry: {}\n\n", self.wait.as_millis());
        let mut head = ResponseHeader::build(200, Some(7))?;
        head.insert_header("Content-Type", "text/event-stream")?;
        head.insert_header("Content-Length", body.len())?;
        head.insert_header("Cache-Control", "no-store")?;
        head.insert_header("Proxy-Status", refusal.proxy_status_value())?;
        // Without these, a page of another origin gets a network error, which is fatal. The body holds no secret.
        if let Some(origin) = request.headers.get(header::ORIGIN) {
            head.insert_header("Access-Control-Allow-Origin", origin.clone())?;
            head.insert_header("Access-Control-Allow-Credentials", HeaderValue::from_static("true"))?;
            head.insert_header("Vary", HeaderValue::from_static("Origin"))?;
        }
        Ok((head, body))
    }

    /// The complete response over HTTP/1, after which the connection closes, with its status and the length of its body.
    ///
    /// # Errors
    /// When the head cannot be built.
    pub(super) fn http1(self, request: &RequestHeader, refusal: &Refusal) -> Result<((u16, usize), Vec<u8>)> {
        let (mut head, body) = self.response(request, refusal)?;
        head.insert_header("Date", get_cached_date())?;
        head.insert_header("Connection", HeaderValue::from_static("close"))?;
        let mut bytes = Vec::new();
        headers::write_response(&head, &mut bytes);
        bytes.extend_from_slice(body.as_bytes());
        Ok(((head.status.as_u16(), body.len()), bytes))
    }

    /// Writes it, unless a response has begun. The connection is not reused.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write(self, session: &mut Session, refusal: &Refusal) -> Result<()> {
        let (head, body) = self.response(session.req_header(), refusal)?;
        let written = session.downstream_session.write_error_response(head, Bytes::from(body)).await;
        written.map_err(|error| error.into_down())
    }
}

/// Whether a request looks like one of an `EventSource`: GET, `Accept` names `text/event-stream`, and `Cache-Control` has
/// `no-cache`.
///
/// Browsers send all three (the fetch of an `EventSource` has the cache mode `no-store`, which adds the last one), and so
/// do the implementations for Node and other languages. A `fetch` that reads an event stream sends no `Cache-Control` by
/// itself, and `Sec-Fetch-Dest` is `empty` for both.
pub fn is_event_source(request: &RequestHeader) -> bool {
    let directives = request.headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = directives.flat_map(|value| value.split(',')).map(str::trim);
    request.method == Method::GET
        && headers::accepts_event_stream(request)
        && directives.any(|directive| directive.eq_ignore_ascii_case("no-cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    const REFUSAL: Refusal =
        Refusal { status: 503, text: std::borrow::Cow::Borrowed("too many"), proxy_status: "connection_limit_reached" };

    fn request(method: &str, fields: Fields) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/events", None).expect("request");
        for (name, value) in fields {
            request.append_header(*name, *value).expect("field");
        }
        request
    }

    fn policy(answer: RetryAnswer, min: u64, max: u64) -> RetryPolicy {
        RetryPolicy { answer, after: RetryAfter { min: Duration::from_millis(min), max: Duration::from_millis(max) } }
    }

    #[test]
    fn an_event_source_is_told_from_other_clients() {
        const ACCEPT: (&str, &str) = ("Accept", "text/event-stream");
        const NO_CACHE: (&str, &str) = ("Cache-Control", "no-cache");
        let cases: [(&str, &str, Fields, bool); 8] = [
            ("Chromium", "GET", &[ACCEPT, NO_CACHE, ("Sec-Fetch-Dest", "empty"), ("Last-Event-ID", "7")], true),
            ("Firefox", "GET", &[ACCEPT, NO_CACHE, ("Pragma", "no-cache")], true),
            ("a library that repeats itself", "GET", &[ACCEPT, ("Cache-Control", "no-store, No-Cache")], true),
            ("fetch", "GET", &[ACCEPT, ("Sec-Fetch-Dest", "empty")], false),
            ("fetch that resumes", "GET", &[ACCEPT, ("Last-Event-ID", "7")], false),
            ("httpx-sse", "GET", &[ACCEPT, ("Cache-Control", "no-store")], false),
            ("a model's client", "POST", &[ACCEPT, NO_CACHE], false),
            ("a reload of a page", "GET", &[("Accept", "text/html"), NO_CACHE], false),
        ];
        for (what, method, fields, expected) in cases {
            assert_eq!(is_event_source(&request(method, fields)), expected, "{what}");
        }
    }

    #[test]
    fn each_answer_says_when_to_come_back() {
        let plain = request("GET", &[("Accept", "text/event-stream")]);
        let source = request("GET", &[("Accept", "text/event-stream"), ("Cache-Control", "no-cache")]);
        use RetryAnswer::{Auto, Reject, RetryLater};
        for (answer, request, status, body, retry_after) in [
            (Auto, &source, 200, "retry: 1500\n\n", None),
            (Auto, &plain, 503, "503 too many\n", Some("2")),
            (RetryLater, &plain, 200, "retry: 1500\n\n", None),
            (Reject, &source, 503, "503 too many\n", Some("2")),
        ] {
            let answer = policy(answer, 1000, 2000).answer(request, 0.5);
            let (head, text) = answer.response(request, &REFUSAL).expect("a response");
            assert_eq!((head.status.as_u16(), text.as_str()), (status, body));
            let field = |name: &str| head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            assert_eq!(field("retry-after").as_deref(), retry_after);
            assert_eq!(field("content-length"), Some(text.len().to_string()));
            assert_eq!(field("proxy-status").as_deref(), Some("sse-proxy; error=connection_limit_reached"));
            assert_eq!(field("cache-control").as_deref(), Some("no-store"));
            let (status_of_bytes, bytes) = answer.http1(request, &REFUSAL).expect("a response");
            assert_eq!(status_of_bytes, (status, body.len()));
            assert!(bytes.ends_with(format!("\r\n\r\n{body}").as_bytes()), "{}", bytes.escape_ascii());
        }
    }

    /// Invariant: an `EventSource` of another origin is asked to come back, too. Mechanism: a response without
    /// `Access-Control-Allow-Origin` is a network error there. Symptom: it never reconnects.
    #[test]
    fn a_page_of_another_origin_may_read_it() {
        for (fields, allowed) in [(&[("Origin", "https://a.example")][..], Some("https://a.example")), (&[], None)] {
            let request = request("GET", fields);
            let answer = policy(RetryAnswer::RetryLater, 1, 1).answer(&request, 0.0);
            let (head, _) = answer.response(&request, &REFUSAL).expect("a response");
            let field = |name: &str| head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
            assert_eq!(field("access-control-allow-origin").as_deref(), allowed);
            assert_eq!(field("access-control-allow-credentials").as_deref(), allowed.map(|_| "true"));
            assert_eq!(field("vary").as_deref(), allowed.map(|_| "Origin"));
        }
    }

    #[test]
    fn every_time_is_within_the_range() {
        for (min, max) in [(0, 0), (5, 5), (100, 3000), (7, 3)] {
            let after = policy(RetryAnswer::Auto, min, max).after;
            for random in [0.0, 0.3, 0.999_999, 1.0, 7.0, -1.0] {
                let wait = after.pick(random);
                assert!(wait >= after.min && wait <= after.max.max(after.min), "{random}: {wait:?}");
            }
        }
    }
}
