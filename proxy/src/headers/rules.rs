//! The rules of a route on heads: fields that are set, added and removed in both directions, and the prefix of the path that
//! goes upstream. Compiled once for each route; both request paths apply them to a head that is otherwise complete.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;

use super::variables::{Value, Variables};

/// Tells a server the prefix of its paths as clients see them.
const X_FORWARDED_PREFIX: &str = "X-Forwarded-Prefix";

/// What a route changes in the heads of its requests and their responses.
#[derive(Clone, Debug, Default)]
pub struct HeadRules {
    /// The change of the path that goes upstream.
    pub path: Option<PathChange>,
    /// Changes to requests.
    pub request: FieldChanges,
    /// Changes to final responses of the upstream.
    pub response: FieldChanges,
}

/// Changes to the fields of a head, in the order of the members.
#[derive(Clone, Debug, Default)]
pub struct FieldChanges {
    remove: Vec<HeaderName>,
    /// Names as they are written, and their values.
    set: Vec<(Bytes, Value)>,
    add: Vec<(Bytes, Value)>,
}

/// A change of the beginning of a path.
#[derive(Clone, Debug)]
pub struct PathChange {
    /// Removed from the beginning; without a slash at its end.
    strip: Box<str>,
    /// Put in front of the rest; without a slash at its end.
    add: Box<str>,
}

impl HeadRules {
    /// Whether they change nothing.
    pub fn is_empty(&self) -> bool {
        self.path.is_none() && self.request.is_empty() && self.response.is_empty()
    }

    /// Changes the head of a request that is otherwise ready for the upstream.
    ///
    /// # Errors
    /// When a field cannot be set.
    pub fn change_request(&self, request: &mut RequestHeader) -> Result<()> {
        let variables = self.request.has_variables().then(|| Variables::of(request));
        if let Some(path) = &self.path {
            path.change(request)?;
        }
        self.request.apply(request, variables.as_ref())
    }

    /// Changes the head of a final response that is otherwise ready for the client.
    ///
    /// # Errors
    /// When a field cannot be set.
    pub fn change_response(&self, response: &mut ResponseHeader) -> Result<()> {
        self.response.apply(response, None)
    }
}

impl FieldChanges {
    /// Removes the fields with these names.
    #[must_use]
    pub fn removing(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.remove.extend(names);
        self
    }

    /// Sets fields, in place of those with the same name. Names have to be valid; their case is kept.
    #[must_use]
    pub fn setting<'n>(mut self, fields: impl IntoIterator<Item = (&'n str, Value)>) -> Self {
        self.set.extend(fields.into_iter().map(|(name, value)| (Bytes::copy_from_slice(name.as_bytes()), value)));
        self
    }

    /// Adds fields beside those with the same name. Names have to be valid; their case is kept.
    #[must_use]
    pub fn adding<'n>(mut self, fields: impl IntoIterator<Item = (&'n str, Value)>) -> Self {
        self.add.extend(fields.into_iter().map(|(name, value)| (Bytes::copy_from_slice(name.as_bytes()), value)));
        self
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn has_variables(&self) -> bool {
        self.set.iter().chain(&self.add).any(|(_, value)| matches!(value, Value::Template(_)))
    }

    fn apply(&self, head: &mut impl Head, variables: Option<&Variables>) -> Result<()> {
        self.remove.iter().for_each(|name| head.remove(name));
        for (name, value) in &self.set {
            match value.fill(variables)? {
                Some(value) => head.set(name.clone(), value)?,
                // A field without a value is not sent, and neither is the client's.
                None => HeaderName::from_bytes(name).iter().for_each(|name| head.remove(name)),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.fill(variables)? {
                head.add(name.clone(), value)?;
            }
        }
        Ok(())
    }
}

impl PathChange {
    /// Removes `strip` from the beginning of paths, and puts `add` in front of the rest. Either may be empty.
    pub fn new(strip: &str, add: &str) -> Self {
        Self { strip: strip.trim_end_matches('/').into(), add: add.trim_end_matches('/').into() }
    }

    /// Whether a path could leave the prefix that is added: it has a segment `..`, which a server resolves.
    pub fn is_left_by(&self, target: &[u8]) -> bool {
        !self.add.is_empty() && has_parent_segment(target)
    }

    fn change(&self, request: &mut RequestHeader) -> Result<()> {
        let target = request.raw_path();
        // `*` is the server as a whole, and has no path (RFC 9112 §3.2.4).
        if target == b"*" {
            return Ok(());
        }
        let target = self.changed(target);
        request.set_raw_path(&target)?;
        if self.strip.is_empty() {
            return Ok(());
        }
        // A trusted proxy in front may have removed a prefix, too.
        let outer = request.headers.get(X_FORWARDED_PREFIX).map(|outer| outer.as_bytes().trim_ascii_end());
        let outer = outer.map(|outer| outer.strip_suffix(b"/").unwrap_or(outer)).unwrap_or_default();
        let prefix = [outer, self.strip.as_bytes()].concat();
        request.insert_header(X_FORWARDED_PREFIX, prefix)
    }

    /// The target that goes upstream. Where something is removed, exactly one slash stands in front of the rest: a path that
    /// began with two would be an authority in a redirect of the server's.
    fn changed(&self, target: &[u8]) -> Vec<u8> {
        let rest = target.strip_prefix(self.strip.as_bytes()).unwrap_or(target);
        let path_length = rest.iter().position(|byte| *byte == b'?').unwrap_or(rest.len());
        let (path, query) = rest.split_at(path_length);
        let below = if self.strip.is_empty() { path.strip_prefix(b"/") } else { Some(trim_slashes(path)) };
        let slash: &[u8] = if path.is_empty() && !self.add.is_empty() { b"" } else { b"/" };
        [self.add.as_bytes(), slash, below.unwrap_or(path), query].concat()
    }
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

/// Whether the path of a target has a segment `..`, also where dots, slashes or backslashes are percent-encoded.
fn has_parent_segment(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    // Nearly every path has neither.
    if memchr::memchr2(b'.', b'%', path).is_none() {
        return false;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let escaped = if *byte == b'%' { after.first_chunk::<2>().and_then(hex_byte) } else { None };
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    // Some servers cut the parameters off a segment first: `..;a=b`.
    let name = |segment: &[u8]| segment.split(|byte| *byte == b';').next() == Some(b"..".as_slice());
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(name)
}

fn hex_byte(digits: &[u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

/// A head of either direction.
trait Head {
    fn remove(&mut self, name: &HeaderName);
    fn set(&mut self, name: Bytes, value: HeaderValue) -> Result<()>;
    fn add(&mut self, name: Bytes, value: HeaderValue) -> Result<()>;
}

macro_rules! heads {
    ($($head:ty)*) => {$(
        impl Head for $head {
            fn remove(&mut self, name: &HeaderName) {
                let _ = self.remove_header(name);
            }

            fn set(&mut self, name: Bytes, value: HeaderValue) -> Result<()> {
                self.insert_header(name, value)
            }

            fn add(&mut self, name: Bytes, value: HeaderValue) -> Result<()> {
                self.append_header(name, value).map(|_| ())
            }
        }
    )*};
}

heads! { RequestHeader ResponseHeader }

/// Why a route may not change a field itself; `None` if it may.
pub fn reserved(name: &HeaderName) -> Option<Reserved> {
    const CONNECTION: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
    ];
    if name == header::CONTENT_LENGTH || name == header::CONTENT_ENCODING {
        return Some(Reserved::Body);
    }
    if CONNECTION.contains(&name.as_str()) {
        return Some(Reserved::Connection);
    }
    (name == header::VIA).then_some(Reserved::Via)
}

/// What a field is for that a route may not change itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It describes the body, which is not changed.
    Body,
    /// It belongs to one connection.
    Connection,
    /// It finds loops.
    Via,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_the_query_is_kept() {
        for (strip, add, target, wanted) in [
            ("/api", "", "/api", "/"),
            ("/api", "", "/api/", "/"),
            ("/api/", "", "/api/", "/"),
            ("/api", "", "/api/users", "/users"),
            ("/api/", "", "/api/users/", "/users/"),
            ("/api", "", "/api/a?b=/api/c", "/a?b=/api/c"),
            ("/api", "", "/api?b", "/?b"),
            ("/api", "", "/api/?", "/?"),
            ("/api", "", "/api//evil.test/x", "/evil.test/x"),
            ("/api", "", "/api///", "/"),
            ("/api", "", "/api/a//b", "/a//b"),
            ("/api", "", "/api/%2F%20", "/%2F%20"),
            ("/api", "/v2", "/api", "/v2"),
            ("/api", "/v2/", "/api?b", "/v2?b"),
            ("/api", "/v2", "/api/", "/v2/"),
            ("/api", "/v2/x/", "/api/users?b", "/v2/x/users?b"),
            ("/api", "/v2", "/api//users", "/v2/users"),
            ("", "/v2", "/", "/v2/"),
            ("", "/v2", "/users?b", "/v2/users?b"),
            ("", "/v2", "//users", "/v2//users"),
        ] {
            let change = PathChange::new(strip, add);
            let changed = String::from_utf8(change.changed(target.as_bytes())).expect("text");
            assert_eq!(changed, wanted, "{target}: {change:?}");
            let mut request = RequestHeader::build("GET", target.as_bytes(), None).expect("request");
            change.change(&mut request).expect("a valid target");
            assert_eq!(request.raw_path(), wanted.as_bytes(), "{target}: {change:?}");
        }
    }

    #[test]
    fn a_target_that_is_not_utf_8_keeps_its_bytes() {
        let mut request = RequestHeader::build("GET", b"/api/\xFF?\xFE", None).expect("request");
        PathChange::new("/api", "/v2").change(&mut request).expect("a valid target");
        assert_eq!(request.raw_path(), b"/v2/\xFF?\xFE");
    }

    #[test]
    fn the_server_as_a_whole_has_no_prefix() {
        let mut request = RequestHeader::build("OPTIONS", b"*", None).expect("request");
        PathChange::new("/api", "/v2").change(&mut request).expect("a valid target");
        assert_eq!((request.raw_path(), request.headers.len()), (&b"*"[..], 0));
    }

    #[test]
    fn a_removed_prefix_is_reported_behind_that_of_the_proxy_in_front() {
        for (outer, strip, wanted) in [
            (None, "/api", Some("/api")),
            (None, "/api/", Some("/api")),
            (Some("/outer"), "/api", Some("/outer/api")),
            (Some("/outer/"), "/api", Some("/outer/api")),
            (Some("/"), "/api", Some("/api")),
            (Some("/outer"), "", Some("/outer")),
            (None, "", None),
        ] {
            let mut request = RequestHeader::build("GET", b"/api/x", None).expect("request");
            if let Some(outer) = outer {
                request.insert_header("x-forwarded-prefix", outer).expect("field");
            }
            PathChange::new(strip, "/v2").change(&mut request).expect("a valid target");
            let prefix = request.headers.get("x-forwarded-prefix").map(|prefix| prefix.to_str().expect("text"));
            assert_eq!(prefix, wanted, "{outer:?} {strip}");
        }
    }

    #[test]
    fn only_a_parent_segment_leaves_an_added_prefix() {
        let change = PathChange::new("/api", "/tenant");
        for target in [
            "/api/..",
            "/api/../x",
            "/api/..;/x",
            "/api/..%3b/x",
            "/api/a/../../x",
            "/api/%2e%2E/x",
            "/api/.%2e",
            "/api/..%2Fx",
            "/api/a%5c..%5cx",
            "/api/..\\x",
            "/api/..?x",
        ] {
            assert!(change.is_left_by(target.as_bytes()), "{target}");
            assert!(!PathChange::new("/api", "").is_left_by(target.as_bytes()), "nothing is added: {target}");
        }
        for target in
            ["/api/", "/api/.", "/api/a..b", "/api/...", "/api/..a", "/api/%2", "/api/%", "/api/%zz", "/api?../x"]
        {
            assert!(!change.is_left_by(target.as_bytes()), "{target}");
        }
    }

    #[test]
    fn fields_are_removed_then_set_then_added_with_the_case_that_is_written() {
        let value = |text| Value::parse(text).expect("valid");
        let changes = FieldChanges::default()
            .removing([HeaderName::from_static("x-gone"), HeaderName::from_static("x-again")])
            .setting([("X-SET", value("new")), ("x-Fresh", value("1")), ("x-empty", value("$host"))])
            .adding([("X-Kept", value("2")), ("X-Again", value("3"))]);
        let mut request = RequestHeader::build("GET", b"/", None).expect("request");
        for name in ["X-Gone", "x-gone", "X-Set", "x-set", "x-kept", "X-Again", "X-Empty"] {
            request.append_header(name, "old").expect("field");
        }
        changes.apply(&mut request, None).expect("valid");
        let mut wire = Vec::new();
        request.header_to_h1_wire(&mut wire);
        let mut lines: Vec<_> = std::str::from_utf8(&wire).expect("text").lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["X-Again: 3", "X-Kept: 2", "X-SET: new", "x-Fresh: 1", "x-kept: old"]);
    }
}
