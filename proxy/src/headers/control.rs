//! What a backend tells this proxy about one stream, in fields of its response head that no client gets to see.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderName;
use pingora::http::{HMap, RequestHeader, ResponseHeader};

/// All names that begin like this are for this proxy. They are removed from requests and responses, also those that are not known.
const PREFIX: &str = "sse-proxy-";

/// Limits on the labels of one stream, which are kept while it runs.
const MAX_LABELS: usize = 8;
const MAX_NAME_BYTES: usize = 32;
const MAX_VALUE_BYTES: usize = 128;

/// A longer time is probably a time in milliseconds.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// What a response's fields say about its stream. What they do not say is as the route says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StreamControl {
    /// `Sse-Proxy-Lifetime`: the stream ends after this time; zero: never.
    pub lifetime: Option<Duration>,
    /// `Sse-Proxy-Heartbeat`: silence before a heartbeat; zero: none is sent.
    pub heartbeat: Option<Duration>,
    /// `Sse-Proxy-Label`: `user=42`, one on each line.
    pub labels: String,
    /// The first field that is ignored, and why.
    pub ignored: Option<String>,
}

/// What the head says about the stream; `None` without a field for this proxy.
pub fn stream_control(response: &ResponseHeader) -> Option<StreamControl> {
    let mut control: Option<StreamControl> = None;
    for (name, value) in &response.headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let control = control.get_or_insert_default();
        if let Err(why) = control.read(name, value.as_bytes()) {
            let text = String::from_utf8_lossy(value.as_bytes().get(..64).unwrap_or(value.as_bytes())).into_owned();
            control.ignored.get_or_insert_with(|| format!("{PREFIX}{name} is {text:?}: {why}"));
        }
    }
    control
}

/// Removes a response's fields for this proxy.
pub fn strip_response_control(response: &mut ResponseHeader) {
    for name in control_fields(&response.headers) {
        response.remove_header(&name);
    }
}

/// The same of a request: a client must not set what only a backend may.
pub fn strip_request_control(request: &mut RequestHeader) {
    for name in control_fields(&request.headers) {
        request.remove_header(&name);
    }
}

/// Allocates nothing if there are none.
fn control_fields(headers: &HMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect()
}

impl StreamControl {
    fn read(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        match name {
            "lifetime" => self.lifetime = Some(seconds(value)?),
            "heartbeat" => self.heartbeat = Some(seconds(value)?),
            "label" => {
                for label in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|label| !label.is_empty())
                {
                    self.add_label(label)?;
                }
            }
            _ => return Err("there are sse-proxy-lifetime, sse-proxy-heartbeat and sse-proxy-label"),
        }
        Ok(())
    }

    fn add_label(&mut self, label: &[u8]) -> Result<(), &'static str> {
        let label = std::str::from_utf8(label).ok().and_then(|label| label.split_once('='));
        let (name, value) = label.ok_or("a label is a name and a value, such as user=42")?;
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(in_name) {
            return Err("a label's name has 1 to 32 letters, digits, dots, dashes and underscores");
        }
        if value.is_empty() || value.len() > MAX_VALUE_BYTES || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a label's value has 1 to 128 visible ASCII characters");
        }
        if self.labels.lines().count() == MAX_LABELS {
            return Err("a stream has at most 8 labels");
        }
        let line_end = if self.labels.is_empty() { "" } else { "\n" };
        let _ = write!(self.labels, "{line_end}{name}={value}");
        Ok(())
    }
}

/// Whole seconds, `0` or `off`.
fn seconds(value: &[u8]) -> Result<Duration, &'static str> {
    let remedy = "write whole seconds, at most a year, or 0 or off";
    let value = std::str::from_utf8(value.trim_ascii()).map_err(|_| remedy)?;
    if value.eq_ignore_ascii_case("off") {
        return Ok(Duration::ZERO);
    }
    let seconds = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten();
    seconds.map(Duration::from_secs).filter(|time| *time <= LONGEST).ok_or(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(200, None).expect("a response");
        for (name, value) in fields {
            response.append_header(*name, *value).expect("a field");
        }
        response
    }

    fn control(fields: &[(&'static str, &str)]) -> StreamControl {
        stream_control(&response(fields)).expect("a field for the proxy")
    }

    #[test]
    fn a_backend_sets_lifetime_heartbeat_and_labels() {
        assert_eq!(stream_control(&response(&[("Content-Type", "text/event-stream")])), None);
        let all = control(&[
            ("Sse-Proxy-Lifetime", "300"),
            ("Sse-Proxy-Heartbeat", " 5 "),
            ("Sse-Proxy-Label", "user=42, org=a=b"),
            ("sse-proxy-label", "room=x/y:1"),
        ]);
        let labels = "user=42\norg=a=b\nroom=x/y:1".to_owned();
        let (lifetime, heartbeat) = (Some(Duration::from_secs(300)), Some(Duration::from_secs(5)));
        assert_eq!(all, StreamControl { lifetime, heartbeat, labels, ignored: None });
        for none in ["0", "off", "OFF"] {
            assert_eq!(control(&[("Sse-Proxy-Lifetime", none)]).lifetime, Some(Duration::ZERO), "{none}");
        }
    }

    #[test]
    fn what_is_malformed_is_ignored_and_the_rest_counts() {
        let long = format!("user={}", "x".repeat(129));
        for (name, value) in [
            ("Sse-Proxy-Lifetime", ""),
            ("Sse-Proxy-Lifetime", "-1"),
            ("Sse-Proxy-Lifetime", "+1"),
            ("Sse-Proxy-Lifetime", "1.5"),
            ("Sse-Proxy-Lifetime", "5m"),
            ("Sse-Proxy-Lifetime", "99999999999"),
            ("Sse-Proxy-Lifetime", "99999999999999999999999"),
            ("Sse-Proxy-Heartbeat", "on"),
            ("Sse-Proxy-Heartbeat", "\u{e9}"),
            ("Sse-Proxy-Label", "user"),
            ("Sse-Proxy-Label", "=42"),
            ("Sse-Proxy-Label", "user="),
            ("Sse-Proxy-Label", "us er=42"),
            ("Sse-Proxy-Label", "user=4 2"),
            ("Sse-Proxy-Label", long.as_str()),
            ("Sse-Proxy-Retry", "5"),
        ] {
            let read = control(&[(name, value), ("Sse-Proxy-Label", "kept=1")]);
            assert!(read.ignored.is_some(), "{name}: {value}");
            assert_eq!(
                (read.lifetime, read.heartbeat, read.labels.as_str()),
                (None, None, "kept=1"),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn labels_are_bounded() {
        let many: String = (0..100).map(|at| format!("l{at}=1,")).collect();
        let read = control(&[("Sse-Proxy-Label", &many)]);
        assert_eq!(read.labels.lines().count(), MAX_LABELS);
        assert!(read.ignored.expect("too many").len() < 200);
    }

    #[test]
    fn every_field_for_the_proxy_is_removed() {
        let mut head = response(&[("Sse-Proxy-Label", "a=1"), ("Sse-Proxy-Later", "1"), ("Server", "x")]);
        strip_response_control(&mut head);
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["server"]);
    }
}
