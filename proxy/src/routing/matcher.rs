//! Whether a route takes a request: the conditions of its `match`, compiled.

use http::{HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;

use crate::config::{HeaderMatch, HostPattern, Match, PathMatch};
use crate::headers;

/// The conditions of a route. One that compares only the beginning of the path costs no more than that.
#[derive(Debug)]
pub struct Matcher {
    /// How every path of its requests begins.
    prefix: Box<str>,
    /// What else has to hold.
    conditions: Option<Box<Conditions>>,
}

#[derive(Debug)]
struct Conditions {
    end: PathEnd,
    hosts: Vec<HostPattern>,
    methods: Vec<Method>,
    fields: Vec<Field>,
}

/// What may follow the prefix in the path.
#[derive(Debug, PartialEq)]
enum PathEnd {
    Anything,
    Nothing,
    NewSegment,
}

/// A condition on a field.
#[derive(Debug)]
struct Field {
    name: HeaderName,
    wanted: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Value(HeaderValue),
    Prefix(HeaderValue),
    Present(bool),
}

impl Matcher {
    /// The conditions of `matches`.
    pub fn new(matches: &Match) -> Self {
        let (prefix, end) = match matches.path() {
            PathMatch::Exact(path) => (path, PathEnd::Nothing),
            PathMatch::Prefix(prefix) => (prefix, PathEnd::Anything),
            PathMatch::SegmentPrefix(prefix) => (prefix, PathEnd::NewSegment),
        };
        let conditions = Conditions {
            end,
            hosts: matches.host.clone(),
            methods: matches.method.iter().map(|method| method.0.clone()).collect(),
            fields: matches.header.iter().map(Field::new).collect(),
        };
        Self { prefix: prefix.into(), conditions: (!conditions.are_empty()).then(|| Box::new(conditions)) }
    }

    /// Takes requests whose path begins with this.
    pub fn of_prefix(prefix: &str) -> Self {
        Self { prefix: prefix.into(), conditions: None }
    }

    /// Whether the route takes `request`; `target` is its path and query.
    pub(super) fn matches(&self, target: &[u8], request: &RequestHeader) -> bool {
        target
            .strip_prefix(self.prefix.as_bytes())
            .is_some_and(|rest| self.conditions.as_ref().is_none_or(|conditions| conditions.hold(rest, request)))
    }
}

impl Conditions {
    fn are_empty(&self) -> bool {
        self.end == PathEnd::Anything && self.hosts.is_empty() && self.methods.is_empty() && self.fields.is_empty()
    }

    /// Whether they hold for a request; `rest` is what follows the prefix.
    fn hold(&self, rest: &[u8], request: &RequestHeader) -> bool {
        let end = match self.end {
            PathEnd::Anything => true,
            PathEnd::Nothing => matches!(rest.first(), None | Some(b'?')),
            PathEnd::NewSegment => matches!(rest.first(), None | Some(b'?' | b'/')),
        };
        end && (self.methods.is_empty() || self.methods.contains(&request.method))
            && (self.hosts.is_empty() || self.takes_host(request))
            && self.fields.iter().all(|field| field.holds(request))
    }

    fn takes_host(&self, request: &RequestHeader) -> bool {
        headers::host_name(request).is_some_and(|host| self.hosts.iter().any(|pattern| pattern.matches(host)))
    }
}

impl Field {
    fn new(header: &HeaderMatch) -> Self {
        let wanted = match (&header.value, &header.prefix) {
            (Some(value), _) => Wanted::Value(value.0.clone()),
            (None, Some(prefix)) => Wanted::Prefix(prefix.0.clone()),
            (None, None) => Wanted::Present(header.present != Some(false)),
        };
        Self { name: header.name.name.clone(), wanted }
    }

    fn holds(&self, request: &RequestHeader) -> bool {
        let mut values = request.headers.get_all(&self.name).iter();
        match &self.wanted {
            Wanted::Value(wanted) => values.any(|value| value == wanted),
            Wanted::Prefix(wanted) => values.any(|value| value.as_bytes().starts_with(wanted.as_bytes())),
            Wanted::Present(wanted) => values.next().is_some() == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn matcher(text: &str) -> Matcher {
        let config = format!("upstreams: {{app: {{servers: ['x:1']}}}}\nroutes: [{{name: x, match: {text}}}]");
        Matcher::new(&Config::parse(Path::new("test"), &config).expect("valid").routes[0].matches)
    }

    fn takes(text: &str, request: &RequestHeader) -> bool {
        matcher(text).matches(request.raw_path(), request)
    }

    #[test]
    fn the_path_is_compared_byte_by_byte_whole_or_by_segments() {
        let targets = ["/a/b", "/a/b?c", "/a/b/", "/a/b/c?d", "/a/bc", "/a/b%2Fc", "/A/b", "/a", "//a/b"];
        for (text, taken) in [
            ("{}", [true; 9]),
            ("{path_prefix: /a/b}", [true, true, true, true, true, true, false, false, false]),
            ("{path_segment_prefix: /a/b}", [true, true, true, true, false, false, false, false, false]),
            ("{path_segment_prefix: /a/b/}", [true, true, true, true, false, false, false, false, false]),
            ("{path_segment_prefix: /}", [true; 9]),
            ("{path: /a/b}", [true, true, false, false, false, false, false, false, false]),
            ("{path: /a/b/}", [false, false, true, false, false, false, false, false, false]),
        ] {
            for (target, wanted) in targets.iter().zip(taken) {
                let request = RequestHeader::build("GET", target.as_bytes(), None).expect("request");
                assert_eq!(takes(text, &request), wanted, "{text} {target}");
            }
        }
    }

    #[test]
    fn every_condition_has_to_hold() {
        let request = |method: &str, fields: &[(&'static str, &'static str)]| {
            let mut request = RequestHeader::build(method, b"/a", None).expect("request");
            for (name, value) in fields {
                request.append_header(*name, *value).expect("field");
            }
            request
        };
        for (text, method, fields, wanted) in [
            ("{host: api.example}", "GET", &[("Host", "API.example.:80")][..], true),
            ("{host: api.example}", "GET", &[("Host", "example")], false),
            ("{host: api.example}", "GET", &[], false),
            ("{host: [a.example, '*.api.example']}", "GET", &[("Host", "x.api.example")], true),
            ("{host: '[::1]'}", "GET", &[("Host", "[::1]:80")], true),
            ("{method: POST}", "POST", &[], true),
            ("{method: [GET, POST]}", "POST", &[], true),
            ("{method: GET}", "HEAD", &[], false),
            ("{header: {name: X-A}}", "GET", &[("x-a", "")], true),
            ("{header: {name: X-A}}", "GET", &[("x-b", "")], false),
            ("{header: {name: X-A, present: false}}", "GET", &[("x-b", "")], true),
            ("{header: {name: X-A, present: false}}", "GET", &[("x-a", "")], false),
            ("{header: {name: X-A, value: b}}", "GET", &[("x-a", "a"), ("x-a", "b")], true),
            ("{header: {name: X-A, value: b}}", "GET", &[("x-a", "B")], false),
            ("{header: {name: X-A, value: 7}}", "GET", &[("x-a", "7")], true),
            ("{header: {name: X-A, prefix: Bearer}}", "GET", &[("x-a", "Bearer x")], true),
            ("{header: {name: X-A, prefix: Bearer}}", "GET", &[("x-a", "Basic x")], false),
            ("{header: [{name: X-A}, {name: X-B, value: c}]}", "GET", &[("x-a", ""), ("x-b", "c")], true),
            ("{header: [{name: X-A}, {name: X-B, value: c}]}", "GET", &[("x-b", "c")], false),
            ("{path: /b, method: GET}", "GET", &[], false),
            ("{path: /a, method: GET, host: a, header: {name: X-A}}", "GET", &[("host", "a"), ("x-a", "")], true),
            ("{path: /a, method: GET, host: b, header: {name: X-A}}", "GET", &[("host", "a"), ("x-a", "")], false),
        ] {
            assert_eq!(takes(text, &request(method, fields)), wanted, "{text}: {method} {fields:?}");
        }
    }

    #[test]
    fn a_route_of_a_prefix_alone_has_no_further_conditions() {
        for text in ["{}", "{path_prefix: /a}"] {
            assert!(matcher(text).conditions.is_none(), "{text}");
        }
    }
}
