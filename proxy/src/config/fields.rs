//! Types of values that stand for parts of a head: field names and values, methods, hosts, paths.

use std::str::FromStr;

use http::{HeaderName, HeaderValue, Method};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::values::from_scalar;

/// The name of a field, with the case in which it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName {
    /// As it is written.
    pub written: String,
    /// For comparisons.
    pub name: HeaderName,
}

impl FromStr for FieldName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            format!("`{text}` is not a valid field name: use letters, digits and dashes, such as X-Tenant")
        })?;
        Ok(Self { written: text.to_owned(), name })
    }
}

/// The value of a field, without spaces at its ends; not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValue(pub HeaderValue);

impl FromStr for FieldValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim_matches([' ', '\t']);
        if trimmed.is_empty() {
            return Err(format!(
                "`{text}` is an empty value: write a value; to remove a field, name it under `remove`"
            ));
        }
        HeaderValue::from_bytes(trimmed.as_bytes()).map(Self).map_err(|_| {
            format!("`{}` is not a valid field value: write one line, without control characters", text.escape_debug())
        })
    }
}

/// A method of requests that the proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodName(pub Method);

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let method = Method::from_bytes(text.as_bytes())
            .map_err(|_| format!("`{text}` is not a valid method: write one such as GET or POST"))?;
        let upper = text.to_ascii_uppercase();
        if upper != text {
            return Err(format!("`{text}` is not a method that clients send: write {upper}, since case matters"));
        }
        if matches!(text, "CONNECT" | "TRACE") {
            return Err(format!("`{text}` is a method that is always refused: name another, such as GET or POST"));
        }
        Ok(Self(method))
    }
}

/// A host name, or all names below one: `api.example`, `*.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case, without a final dot; of `*.example`, what follows the star.
    name: String,
    /// Whether it stands for all names that end like this.
    is_suffix: bool,
}

impl HostPattern {
    /// Whether a request for this host matches; `host` has no port and no final dot.
    pub fn matches(&self, host: &[u8]) -> bool {
        let name = self.name.as_bytes();
        match (self.is_suffix, host.len().checked_sub(name.len())) {
            (false, Some(0)) => host.eq_ignore_ascii_case(name),
            (true, Some(before @ 1..)) => host[before..].eq_ignore_ascii_case(name),
            _ => false,
        }
    }

    /// Whether it matches every host that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.is_suffix, other.is_suffix) {
            (true, true) => other.name.ends_with(&self.name),
            (false, true) => false,
            (_, false) => self.matches(other.name.as_bytes()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |why: &str, remedy: &str| Err(format!("`{text}` is not a valid host: {why}; {remedy}"));
        let example = "write a name such as api.example, or *.example for all names below it";
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return fail("it would match every host", "leave `host` out");
        }
        if lower.contains('/') {
            return fail("it has a scheme or a path", example);
        }
        let is_address = lower.starts_with('[') && lower.ends_with(']');
        if is_address {
            let inner = lower.trim_matches(['[', ']']);
            return match inner.parse::<std::net::Ipv6Addr>() {
                Ok(_) => Ok(Self { name: lower, is_suffix: false }),
                Err(_) => fail("there is no IPv6 address in its brackets", example),
            };
        }
        if lower.parse::<std::net::Ipv6Addr>().is_ok() {
            return fail("it is an IPv6 address without brackets", &format!("write [{lower}]"));
        }
        if let Some((host, _)) = lower.split_once(':') {
            return fail("it has a port, and ports are not compared", &format!("write {host}"));
        }
        let (is_suffix, name) = match lower.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let labels = if is_suffix { name.strip_prefix('.') } else { Some(name) };
        if name.contains('*') || labels.is_none() {
            return fail("a `*` stands only for what is before the first dot", "write one such as *.example");
        }
        if !name.is_ascii() {
            return fail("it has letters that clients encode", "write its ASCII form, which begins with xn--");
        }
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !labels.unwrap_or_default().split('.').all(is_label) {
            return fail("a part of it is empty or has other characters than letters, digits, - and _", example);
        }
        Ok(Self { name: name.to_owned(), is_suffix })
    }
}

/// A path or the beginning of one, as clients send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathText(pub String);

impl FromStr for PathText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail =
            |why: &str, remedy: &str| Err(format!("`{}` is not a valid path: {why}; {remedy}", text.escape_debug()));
        if !text.starts_with('/') {
            return fail("it does not begin with a slash", "begin it with one");
        }
        if let Some((path, _)) = text.split_once(['?', '#']) {
            return fail("it has a query or a fragment, which are not compared", &format!("write {path}"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fail(
                "it has characters that clients encode",
                "write them percent-encoded, such as %20 for a space",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Reads the value of an optional key that is there. (`Option` would take a key without a value for a missing one.)
pub(super) fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

macro_rules! scalars {
    ($($type:ty, $expecting:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_scalar(deserializer, $expecting)
            }
        }
    )*};
}

scalars! {
    FieldName, "the name of a field such as X-Tenant";
    MethodName, "a method such as GET";
    HostPattern, "a host such as api.example or *.example";
    PathText, "a path such as /v1/chat";
}

impl<'de> Deserialize<'de> for FieldValue {
    /// Whole numbers, true and false are what they are written as. A fraction could lose digits.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = FieldValue;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("text, in quotes if YAML reads it as something else")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FieldValue, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<FieldValue, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<FieldValue, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<FieldValue, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_case_and_a_star_stands_for_at_least_one_label() {
        let hosts = [
            "api.example",
            "API.Example",
            "a.api.example",
            "b.a.api.example",
            "example",
            "xapi.example",
            ".api.example",
        ];
        for (pattern, matching) in [
            ("api.example", &[true, true, false, false, false, false, false][..]),
            ("API.example.", &[true, true, false, false, false, false, false]),
            ("*.api.example", &[false, false, true, true, false, false, false]),
            ("*.Example", &[true, true, true, true, false, true, true]),
        ] {
            let pattern: HostPattern = pattern.parse().expect("valid");
            let matched: Vec<_> = hosts.iter().map(|host| pattern.matches(host.as_bytes())).collect();
            assert_eq!(matched, matching, "{pattern:?} of {hosts:?}");
        }
        assert!("[::1]".parse::<HostPattern>().expect("valid").matches(b"[::1]"));
    }

    #[test]
    fn values_that_no_head_can_have_are_refused() {
        for bad in [
            "",
            "*",
            "*.",
            "*a.example",
            "a.*.example",
            "a..b",
            ".a",
            "a.example:80",
            "http://a",
            "a/b",
            "ä.example",
            "::1",
            "[::1]:80",
            "[a]",
            "a b",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
        for bad in ["", "a", "/a?b", "/a#b", "/a b", "/ä", "/a\n"] {
            assert!(bad.parse::<PathText>().is_err(), "{bad:?}");
        }
        for bad in ["", "get", "Get", "G T", "CONNECT", "TRACE"] {
            assert!(bad.parse::<MethodName>().is_err(), "{bad:?}");
        }
        for bad in ["", "X A", "X:A", "ä", ":path"] {
            assert!(bad.parse::<FieldName>().is_err(), "{bad:?}");
        }
        for bad in ["", " ", "a\r\nX: b", "a\u{1}"] {
            assert!(bad.parse::<FieldValue>().is_err(), "{bad:?}");
        }
    }
}
