//! `routes[].match`: which requests a route takes.

use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::fields::{self, FieldName, FieldValue, HostPattern, MethodName, PathText};
use super::values;

/// Which requests a route takes: those for which every condition holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map: `match: {path_prefix: /events}`")]
pub struct Match {
    /// The host is one of these; empty: any.
    #[serde(deserialize_with = "hosts")]
    pub host: Vec<HostPattern>,
    /// The path is this.
    #[serde(deserialize_with = "fields::some")]
    pub path: Option<PathText>,
    /// The path and query begin with this.
    pub path_prefix: String,
    /// The path is this, or goes on behind it with a slash.
    #[serde(deserialize_with = "fields::some")]
    pub path_segment_prefix: Option<PathText>,
    /// The method is one of these; empty: any.
    #[serde(deserialize_with = "methods")]
    pub method: Vec<MethodName>,
    /// All of these hold.
    #[serde(deserialize_with = "headers")]
    pub header: Vec<HeaderMatch>,
}

/// A condition on a field of a request.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, expecting = "a map, such as `header: {name: X-Tenant, value: blue}`")]
pub struct HeaderMatch {
    /// The field.
    pub name: FieldName,
    /// One of its values is this.
    #[serde(default, deserialize_with = "fields::some")]
    pub value: Option<FieldValue>,
    /// One of its values begins with this.
    #[serde(default, deserialize_with = "fields::some")]
    pub prefix: Option<FieldValue>,
    /// Whether it is there.
    #[serde(default, deserialize_with = "fields::some")]
    pub present: Option<bool>,
}

/// How the path of a request is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatch<'m> {
    /// It is this.
    Exact(&'m str),
    /// It begins with this, byte by byte.
    Prefix(&'m str),
    /// It is this, or goes on behind it with a slash. Has no slash at its end.
    SegmentPrefix(&'m str),
}

impl Default for Match {
    fn default() -> Self {
        Self {
            host: Vec::new(),
            path: None,
            path_prefix: "/".to_owned(),
            path_segment_prefix: None,
            method: Vec::new(),
            header: Vec::new(),
        }
    }
}

impl PathMatch<'_> {
    /// Whether it holds for every path for which `other` does.
    fn covers(&self, other: &Self) -> bool {
        let is_below = |path: &str, prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match (self, other) {
            (Self::Prefix(prefix), Self::Exact(path) | Self::Prefix(path)) => path.starts_with(prefix),
            (Self::Prefix(prefix), Self::SegmentPrefix(path)) => path.starts_with(prefix) || *prefix == "/",
            (Self::Exact(own), Self::Exact(path)) => own == path,
            (Self::SegmentPrefix(prefix), Self::Exact(path) | Self::SegmentPrefix(path)) => is_below(path, prefix),
            // What begins with `/a/` is below `/a`; what begins with `/a` may be `/ab`.
            (Self::SegmentPrefix(prefix), Self::Prefix(path)) => {
                path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
            }
            (Self::Exact(_), _) => false,
        }
    }
}

impl Match {
    /// How the path is compared.
    pub fn path(&self) -> PathMatch<'_> {
        match (&self.path, &self.path_segment_prefix) {
            (Some(path), _) => PathMatch::Exact(&path.0),
            (None, Some(prefix)) => PathMatch::SegmentPrefix(prefix.0.trim_end_matches('/')),
            (None, None) => PathMatch::Prefix(&self.path_prefix),
        }
    }

    /// The key of the path, and what it says.
    pub(super) fn path_key(&self) -> (&'static str, &str) {
        match (&self.path, &self.path_segment_prefix) {
            (Some(path), _) => ("path", &path.0),
            (None, Some(prefix)) => ("path_segment_prefix", &prefix.0),
            (None, None) => ("path_prefix", &self.path_prefix),
        }
    }

    /// Whether it compares nothing but the beginning of the path, byte by byte.
    pub(super) fn is_prefix_only(&self) -> bool {
        matches!(self.path(), PathMatch::Prefix(_))
            && self.host.is_empty()
            && self.method.is_empty()
            && self.header.is_empty()
    }

    /// Whether it takes every request that `other` takes.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let hosts = self.host.is_empty()
            || (!other.host.is_empty() && other.host.iter().all(|host| self.host.iter().any(|own| own.covers(host))));
        let methods = self.method.is_empty()
            || (!other.method.is_empty() && other.method.iter().all(|method| self.method.contains(method)));
        let headers = self.header.iter().all(|own| other.header.iter().any(|header| own.covers(header)));
        hosts && methods && headers && self.path().covers(&other.path())
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if !self.path_prefix.starts_with('/') {
            let what = format!("is `{}`", self.path_prefix);
            return Err(Problem::new(&["path_prefix"], what, "begin it with a slash"));
        }
        let other_key = match (&self.path, &self.path_segment_prefix) {
            (Some(_), Some(_)) => Some("path_segment_prefix"),
            (Some(_), None) | (None, Some(_)) if self.path_prefix != "/" => Some("path_prefix"),
            _ => None,
        };
        if let Some(key) = other_key {
            let what = format!("is set beside {}", self.path_key().0);
            let remedy = "keep one of path, path_prefix and path_segment_prefix";
            return Err(Problem::new(&[key], what, remedy));
        }
        self.header.iter().enumerate().try_for_each(|(at, header)| {
            // A single condition needs no list.
            let at = at.to_string();
            let parents: &[&str] = if self.header.len() == 1 { &["header"] } else { &["header", &at] };
            header.check().map_err(|problem| problem.under(parents))
        })
    }
}

impl HeaderMatch {
    /// Whether it holds for every request for which `other` does.
    fn covers(&self, other: &Self) -> bool {
        if self.name.name != other.name.name {
            return false;
        }
        let bytes = |value: &Option<FieldValue>| value.as_ref().map(|value| value.0.as_bytes().to_owned());
        match (bytes(&self.value), bytes(&self.prefix)) {
            (Some(value), _) => bytes(&other.value).as_deref() == Some(&value),
            (None, Some(prefix)) => {
                [bytes(&other.value), bytes(&other.prefix)].into_iter().flatten().any(|text| text.starts_with(&prefix))
            }
            (None, None) => (self.present != Some(false)) == (other.present != Some(false)),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        if self.name.name == http::header::HOST {
            return Err(Problem::new(&["name"], "is `Host`", "write the host under match: `host: api.example`"));
        }
        if self.name.written.contains('_') {
            let what = format!("is `{}`, and fields with an underscore are removed from requests", self.name.written);
            return Err(Problem::new(&["name"], what, "name a field without one"));
        }
        let set = [self.value.is_some(), self.prefix.is_some(), self.present.is_some()];
        if set.iter().filter(|is_set| **is_set).count() > 1 {
            return Err(Problem::new(&[], "has more than one of value, prefix and present", "keep one of the three"));
        }
        Ok(())
    }
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPattern>, D::Error> {
    values::one_or_list(deserializer, "a host or a list: `host: [api.example, '*.example']`")
}

fn methods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MethodName>, D::Error> {
    values::one_or_list(deserializer, "a method or a list: `method: [GET, POST]`")
}

fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderMatch>, D::Error> {
    values::one_or_list(deserializer, "a map or a list of them: `header: {name: X-Tenant, value: blue}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Match {
        serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_match_covers_another_only_if_it_takes_all_of_its_requests() {
        for (own, other, covers) in [
            ("{}", "{path: /a, host: a.example, method: GET, header: {name: X-A}}", true),
            ("{path: /a}", "{}", false),
            ("{path: /a}", "{path: /a}", true),
            ("{path: /a}", "{path: /a/}", false),
            ("{path: /a}", "{path_segment_prefix: /a}", false),
            ("{path_prefix: /a}", "{path_prefix: /ab}", true),
            ("{path_prefix: /a}", "{path_segment_prefix: /a}", true),
            ("{path_prefix: /a/}", "{path_segment_prefix: /a}", false),
            ("{path_prefix: /a/}", "{path_segment_prefix: /a/b}", true),
            ("{path_prefix: /}", "{path_segment_prefix: /}", true),
            ("{path_segment_prefix: /}", "{}", true),
            ("{path_segment_prefix: /a}", "{path_prefix: /a}", false),
            ("{path_segment_prefix: /a}", "{path_prefix: /ab}", false),
            ("{path_segment_prefix: /a}", "{path_prefix: /a/}", true),
            ("{path_segment_prefix: /a}", "{path_prefix: /a/b}", true),
            ("{path_segment_prefix: /a/}", "{path: /a}", true),
            ("{path_segment_prefix: /a}", "{path: /ab}", false),
            ("{path_segment_prefix: /a}", "{path_segment_prefix: /a/b}", true),
            ("{host: a.example}", "{}", false),
            ("{host: a.example}", "{host: A.example.}", true),
            ("{host: [a.example, b.example]}", "{host: a.example}", true),
            ("{host: a.example}", "{host: [a.example, b.example]}", false),
            ("{host: '*.example'}", "{host: ['a.example', '*.a.example']}", true),
            ("{host: '*.example'}", "{host: example}", false),
            ("{host: a.example}", "{host: '*.example'}", false),
            ("{method: [GET, POST]}", "{method: POST}", true),
            ("{method: GET}", "{method: [GET, POST]}", false),
            ("{method: GET}", "{}", false),
            ("{header: {name: X-A}}", "{header: {name: x-a, value: b}}", true),
            ("{header: {name: X-A}}", "{header: {name: X-A, present: false}}", false),
            ("{header: {name: X-A, present: false}}", "{header: {name: X-A, present: false}}", true),
            ("{header: {name: X-A, value: b}}", "{header: {name: X-A, value: b}}", true),
            ("{header: {name: X-A, value: b}}", "{header: {name: X-A, value: B}}", false),
            ("{header: {name: X-A, value: b}}", "{header: {name: X-A, prefix: b}}", false),
            ("{header: {name: X-A, prefix: b}}", "{header: {name: X-A, value: bc}}", true),
            ("{header: {name: X-A, prefix: bc}}", "{header: {name: X-A, prefix: b}}", false),
            ("{header: {name: X-A}}", "{header: [{name: X-A}, {name: X-B}]}", true),
            ("{header: [{name: X-A}, {name: X-B}]}", "{header: {name: X-A}}", false),
        ] {
            assert_eq!(parse(own).covers(&parse(other)), covers, "{own} covers {other}");
        }
    }
}
