//! Values of request fields: fixed text, or text with variables such as `$host`, which are filled in for each request.

use http::HeaderValue;
use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::prelude::{OrErr, Result};

use super::request::host_name;

/// A value that a route gives to a field.
#[derive(Clone, Debug)]
pub enum Value {
    /// The same for every request.
    Fixed(HeaderValue),
    /// Has variables.
    Template(Template),
}

/// Text with variables.
#[derive(Clone, Debug)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    ClientAddress,
    Host,
    RequestId,
    RequestUri,
    Scheme,
}

/// Every variable by its name. The order is that of [`Variables`].
const NAMES: [(&str, Variable); 5] = [
    ("client_address", Variable::ClientAddress),
    ("host", Variable::Host),
    ("request_id", Variable::RequestId),
    ("request_uri", Variable::RequestUri),
    ("scheme", Variable::Scheme),
];

/// The values of all variables for one request.
pub(super) struct Variables([Vec<u8>; NAMES.len()]);

impl Value {
    /// Reads text in which `$name` and `${name}` are variables and `$$` is a dollar sign. A dollar sign before anything else is one.
    ///
    /// # Errors
    /// With the name that is not a variable.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (mut parts, mut fixed, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            fixed.push_str(before);
            let (name, behind) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or_else(|| after.to_owned())?,
                None => after.split_at(after.find(|letter| !is_name_letter(letter)).unwrap_or(after.len())),
            };
            let is_escape = after.starts_with('$');
            rest = if is_escape { &after[1..] } else { behind };
            if is_escape
                || !after
                    .starts_with(|letter: char| letter == '{' || is_name_letter(letter) && !letter.is_ascii_digit())
            {
                fixed.push('$');
                fixed.push_str(if is_escape { "" } else { name });
                continue;
            }
            let known = NAMES.iter().find(|(known, _)| *known == name);
            let (_, variable) = known.ok_or_else(|| name.to_owned())?;
            parts.push(Part::Text(std::mem::take(&mut fixed).into()));
            parts.push(Part::Variable(*variable));
        }
        fixed.push_str(rest);
        if parts.is_empty() {
            return HeaderValue::from_bytes(fixed.as_bytes()).map(Self::Fixed).map_err(|_| fixed);
        }
        parts.push(Part::Text(fixed.into()));
        parts.retain(|part| *part != Part::Text(Box::default()));
        Ok(Self::Template(Template(parts)))
    }

    /// The names of all variables.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The value for a request with these variables; `None` if it is empty.
    ///
    /// # Errors
    /// When a variable has bytes that no field may have.
    pub(super) fn fill(&self, variables: Option<&Variables>) -> Result<Option<HeaderValue>> {
        let template = match self {
            Self::Fixed(value) => return Ok(Some(value.clone())),
            Self::Template(template) => template,
        };
        let mut filled = Vec::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    filled.extend_from_slice(variables.map_or(&[][..], |variables| &variables.0[*variable as usize]));
                }
            }
        }
        let value = HeaderValue::from_bytes(filled.trim_ascii());
        let value = value.or_err(ErrorType::InvalidHTTPHeader, "a variable cannot be the value of a field")?;
        Ok(Some(value).filter(|value| !value.is_empty()))
    }
}

impl Variables {
    /// Those of a request with the forwarding fields that the upstream gets.
    pub(super) fn of(request: &RequestHeader) -> Self {
        let field =
            |name| request.headers.get(name).map(|value: &HeaderValue| value.as_bytes().to_vec()).unwrap_or_default();
        Self(NAMES.map(|(_, variable)| match variable {
            Variable::ClientAddress => field("x-real-ip"),
            Variable::Host => host_name(request).unwrap_or_default().to_vec(),
            Variable::RequestId => format!("{:032x}", fastrand::u128(..)).into_bytes(),
            Variable::RequestUri => request.raw_path().to_vec(),
            Variable::Scheme => field("x-forwarded-proto"),
        }))
    }
}

fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, request: &RequestHeader) -> Option<String> {
        let value = Value::parse(text).unwrap_or_else(|name| panic!("{text}: {name}"));
        let value = value.fill(Some(&Variables::of(request))).expect("valid");
        value.map(|value| String::from_utf8(value.as_bytes().to_vec()).expect("text"))
    }

    #[test]
    fn variables_are_filled_in_and_other_dollar_signs_stay() {
        let mut request = RequestHeader::build("GET", b"/a?b=$host", None).expect("request");
        for (name, value) in [("Host", "a.example:80"), ("X-Real-IP", "192.0.2.7"), ("X-Forwarded-Proto", "https")] {
            request.append_header(name, value).expect("field");
        }
        for (text, wanted) in [
            ("plain", "plain"),
            ("$host", "a.example"),
            ("${host}", "a.example"),
            ("<$client_address>", "<192.0.2.7>"),
            ("$scheme://${host}$request_uri", "https://a.example/a?b=$host"),
            ("${host}_a", "a.example_a"),
            ("$host$host", "a.examplea.example"),
            ("$host.", "a.example."),
            ("$$host", "$host"),
            ("a$", "a$"),
            ("$5 $ $-", "$5 $ $-"),
            ("$5$host", "$5a.example"),
            ("$$$host", "$a.example"),
        ] {
            assert_eq!(filled(text, &request).as_deref(), Some(wanted), "{text}");
        }
        let bare = RequestHeader::build("GET", b"/", None).expect("request");
        assert_eq!(filled("$host", &bare), None, "nothing to send");
        assert_eq!(filled("host $host", &bare).as_deref(), Some("host"));
    }

    #[test]
    fn the_position_of_a_variable_is_that_of_its_name() {
        for (at, (name, variable)) in NAMES.into_iter().enumerate() {
            assert_eq!(variable as usize, at, "{name}");
        }
    }

    #[test]
    fn every_request_has_an_id_of_its_own_that_all_its_fields_share() {
        let request = RequestHeader::build("GET", b"/", None).expect("request");
        let [one, other] = [(); 2].map(|()| filled("$request_id $request_id", &request).expect("an id"));
        let (first, second) = one.split_once(' ').expect("two");
        assert!(first == second && first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn what_looks_like_a_variable_has_to_be_one() {
        for (text, name) in [
            ("$remote_addr", "remote_addr"),
            ("a $hosts", "hosts"),
            ("${host", "{host"),
            ("${}", ""),
            ("$_", "_"),
            ("${Host}", "Host"),
        ] {
            assert_eq!(Value::parse(text).err().as_deref(), Some(name), "{text}");
        }
    }
}
