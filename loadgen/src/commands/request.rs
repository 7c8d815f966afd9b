//! Builds the request every stream of a run sends.

use crate::error::CommandError;
use crate::url::Url;
use crate::wire::request::Request;

/// The parts of a request that are the same for every URL.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    method: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl RequestTemplate {
    /// A plain GET.
    #[must_use]
    pub fn get() -> Self {
        Self { method: "GET".to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// Reads `-X`, `-H` and `--body` (`@FILE` reads the file).
    ///
    /// # Errors
    /// What cannot be put into a request.
    pub fn new(method: Option<&str>, headers: &[String], body: Option<&str>) -> Result<Self, CommandError> {
        let usage = |text: String| Err(CommandError::Usage(text));
        let body_bytes = match body.map(|body| (body.strip_prefix('@'), body)) {
            None => Vec::new(),
            Some((Some(path), _)) => match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) => return usage(format!("--body @{path}: {error}")),
            },
            Some((None, text)) => text.as_bytes().to_vec(),
        };
        let method = method.unwrap_or(if body.is_some() { "POST" } else { "GET" });
        if method.is_empty() || !method.bytes().all(is_token_byte) {
            return usage(format!("-X {method}: not a valid HTTP method"));
        }
        let mut parsed = Vec::new();
        for header in headers {
            let Some((name, value)) = header.split_once(':') else {
                return usage(format!("-H '{header}': expected 'Name: value'"));
            };
            let value = value.trim();
            if name.is_empty()
                || !name.bytes().all(is_token_byte)
                || value.bytes().any(|byte| byte < b' ' && byte != b'\t')
            {
                return usage(format!("-H '{header}': expected 'Name: value'"));
            }
            parsed.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self { method: method.to_owned(), headers: parsed, body: body_bytes })
    }

    /// The event to continue after, when a `Last-Event-ID` header says so.
    #[must_use]
    pub fn already(&self) -> u64 {
        self.value("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(0)
    }

    /// What is asked of `url`.
    #[must_use]
    pub fn request(&self, url: &Url) -> Request {
        let mut headers = Vec::new();
        let body_bytes = self.body.len().to_string();
        let needs_length = !self.body.is_empty() || self.method == "POST" || self.method == "PUT";
        let defaults = [
            ("Host", url.authority.as_str(), true),
            ("Accept", "text/event-stream", true),
            ("Cache-Control", "no-cache", true),
            ("Content-Length", body_bytes.as_str(), needs_length),
        ];
        for (name, value, is_wanted) in defaults {
            if is_wanted && self.value(name).is_none() {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        headers.extend_from_slice(&self.headers);
        Request { method: self.method.clone(), path: url.path.clone(), headers, body: self.body.clone() }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(method: Option<&str>, headers: &[&str], body: Option<&str>) -> String {
        let headers: Vec<String> = headers.iter().map(ToString::to_string).collect();
        let template = RequestTemplate::new(method, &headers, body).expect("valid");
        String::from_utf8(template.request(&"http://h:1/events?x=1".parse().expect("valid")).to_http1()).expect("text")
    }

    #[test]
    fn a_plain_request_asks_for_an_event_stream() {
        assert_eq!(
            text(None, &[], None),
            "GET /events?x=1 HTTP/1.1\r\nHost: h:1\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"
        );
    }

    #[test]
    fn a_body_makes_it_a_post_with_a_length() {
        let text = text(None, &["accept: */*", "X-Key:  v "], Some("{}"));
        assert!(text.starts_with("POST "), "{text}");
        assert!(text.contains("Content-Length: 2\r\naccept: */*\r\nX-Key: v\r\n\r\n{}"), "{text}");
        assert!(!text.contains("text/event-stream"), "{text}");
    }

    #[test]
    fn what_would_break_the_request_is_refused() {
        for header in ["no colon", ": v", "a b: c", "a: b\r\nc: d"] {
            assert!(RequestTemplate::new(None, &[header.to_owned()], None).is_err(), "{header}");
        }
        assert!(RequestTemplate::new(Some("GE T"), &[], None).is_err());
        assert!(RequestTemplate::new(None, &[], Some("@/no/such/file")).is_err());
    }
}
