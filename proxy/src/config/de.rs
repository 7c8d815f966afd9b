//! From the tree of a file to typed values, with errors that name the key, what stands there and what to write.
//!
//! A YAML library's errors are sentences about Rust types, with a position and without a key. serde reports each mistake to the
//! deserializer in parts (what was found, what is expected, which keys exist), so this one composes the sentence from them.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::error::Problem;
use super::tree::{Key, Kind, Node};

/// How similar a known key has to be to be suggested, from 0 to 1.
const SIMILAR: f64 = 0.5;

/// Keys that have to be there, with an example.
const REQUIRED: &[(&str, &str)] = &[
    ("upstreams", "upstreams: {app: {servers: [127.0.0.1:3000]}}"),
    ("servers", "servers: [127.0.0.1:3000]"),
    ("address", "address: 127.0.0.1:8080"),
    ("cert", "cert: /etc/tls/fullchain.pem"),
    ("key", "key: /etc/tls/privkey.pem"),
];

/// An error, which collects its key on the way up.
#[derive(Debug)]
pub(super) struct Error(Box<Problem>);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        *error.0
    }
}

impl Error {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(&[], what, remedy)))
    }

    fn under(self, key: &str, line: usize) -> Self {
        Self(Box::new(self.0.at(line).under(&[key])))
    }
}

impl Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    /// Values explain themselves: what is wrong, a colon, and what to write.
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        let (what, remedy) = message.split_once(": ").unwrap_or((&message, "correct it"));
        Self::new(format!("is invalid: {what}"), remedy)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let what = match unexpected {
            Unexpected::Unit => "is empty".to_owned(),
            Unexpected::Seq => "is a list".to_owned(),
            Unexpected::Map => "is a map".to_owned(),
            Unexpected::Str(text) => format!("is `{text}`"),
            Unexpected::Bool(value) => format!("is `{value}`"),
            Unexpected::Unsigned(value) => format!("is `{value}`"),
            Unexpected::Signed(value) => format!("is `{value}`"),
            Unexpected::Float(value) => format!("is `{value}`"),
            other => format!("is {other}"),
        };
        let expected = expected.to_string();
        let wanted = match expected.as_str() {
            "a boolean" => "true or false",
            "a string" => "text",
            "path string" => "a path",
            "u32" | "usize" => "a whole number",
            other => other,
        };
        Self::new(what, format!("write {wanted}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new("is not a known key", format!("{}known keys here: {}", suggestion(field, expected), list(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(
            format!("is `{variant}`"),
            format!("{}write one of {}", suggestion(variant, expected), list(expected)),
        )
    }

    fn missing_field(field: &'static str) -> Self {
        let example = REQUIRED.iter().find(|(key, _)| *key == field).map_or(field, |(_, example)| example);
        Self::new(format!("has no `{field}`"), format!("add `{example}`"))
    }
}

fn suggestion(written: &str, known: &[&str]) -> String {
    let similarity = |key: &str| strsim::normalized_damerau_levenshtein(&written.to_lowercase(), key);
    let nearest = known.iter().map(|key| (similarity(key), key)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .map_or_else(String::new, |(_, key)| format!("did you mean `{key}`? "))
}

fn list(known: &[&str]) -> String {
    known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// A scalar that is not quoted, by the core schema of YAML 1.2.
fn plain(text: &str) -> Unexpected<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Unexpected::Unit,
        "true" | "True" | "TRUE" => return Unexpected::Bool(true),
        "false" | "False" | "FALSE" => return Unexpected::Bool(false),
        _ => {}
    }
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_digit());
    match (text.parse(), text.parse(), text.parse()) {
        (Ok(number), _, _) if numeric => Unexpected::Unsigned(number),
        (_, Ok(number), _) if numeric => Unexpected::Signed(number),
        (_, _, Ok(number)) if numeric => Unexpected::Float(number),
        _ => Unexpected::Str(text),
    }
}

impl Node {
    fn value(&self) -> Unexpected<'_> {
        match &self.kind {
            Kind::Scalar { text, quoted: true } => Unexpected::Str(text),
            Kind::Scalar { text, quoted: false } => plain(text),
            Kind::List(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
        }
    }

    fn mismatch<'de, V: Visitor<'de>>(&self, visitor: &V) -> Error {
        de::Error::invalid_type(self.value(), visitor)
    }
}

macro_rules! text {
    ($($method:ident)*) => {$(
        /// Any scalar is text where text is wanted: `name: 7`.
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.kind {
                Kind::Scalar { text, quoted } if *quoted || plain(text) != Unexpected::Unit => visitor.visit_str(text),
                _ => Err(self.mismatch(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match (&self.kind, self.value()) {
            (Kind::List(_), _) => self.deserialize_seq(visitor),
            (Kind::Map(_), _) => self.deserialize_map(visitor),
            (_, Unexpected::Bool(value)) => visitor.visit_bool(value),
            (_, Unexpected::Unsigned(value)) => visitor.visit_u64(value),
            (_, Unexpected::Signed(value)) => visitor.visit_i64(value),
            (_, Unexpected::Float(value)) => visitor.visit_f64(value),
            (_, Unexpected::Str(text)) => visitor.visit_str(text),
            _ => visitor.visit_unit(),
        }
    }

    text! { deserialize_str deserialize_string deserialize_char deserialize_identifier }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value() {
            Unexpected::Unit => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::Scalar { text, .. } => {
                let variant: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            _ => Err(de::Error::invalid_type(self.value(), &format!("one of {}", list(variants)).as_str())),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct
        ignored_any
    }
}

struct Items<'a, I: Iterator<Item = (usize, &'a std::rc::Rc<Node>)>>(I);

impl<'a, 'de, I: Iterator<Item = (usize, &'a std::rc::Rc<Node>)>> SeqAccess<'de> for Items<'a, I> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((at, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(&**item).map(Some).map_err(|error| error.under(&at.to_string(), item.line))
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, std::rc::Rc<Node>)>,
    /// The entry whose key has been read.
    value: Option<&'a (Key, std::rc::Rc<Node>)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.rest.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|error| error.under(&key.name, key.line))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, value)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(&**value).map_err(|error| error.under(&key.name, key.line))
    }
}
