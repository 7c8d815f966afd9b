//! A walk through the keys of a YAML file, which gives the line of a key: serde_yaml knows lines only in its errors.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

/// Where a walk has stopped before the end of the file.
pub(super) struct Stop {
    /// The key there.
    pub key: Vec<String>,
    /// What serde_yaml says, with its location.
    pub error: serde_yaml::Error,
    /// The tag that is there: `!include`.
    pub tag: Option<String>,
}

/// Walks in the order of the file until `stops_at` is true for a key or an item, there is a tag, or the file is not YAML.
pub(super) fn walk(text: &str, stops_at: &mut dyn FnMut(&[String]) -> bool) -> Result<(), Stop> {
    let mut walk = Walk { key: Vec::new(), stops_at, tag: None };
    let end = Step { walk: &mut walk, to: To::Value }.deserialize(serde_yaml::Deserializer::from_str(text));
    end.map_err(|error| Stop { key: walk.key, error, tag: walk.tag })
}

/// The line of a key, or of its deepest parent that exists.
pub(super) fn line_of(text: &str, key: &[String]) -> usize {
    let line = |key: &[String]| walk(text, &mut |at| at == key).err()?.error.location().map(|location| location.line());
    (1..=key.len()).rev().find_map(|length| line(&key[..length])).unwrap_or(1)
}

struct Walk<'a> {
    key: Vec<String>,
    stops_at: &'a mut dyn FnMut(&[String]) -> bool,
    tag: Option<String>,
}

struct Step<'w, 'a> {
    walk: &'w mut Walk<'a>,
    to: To,
}

#[derive(Clone, Copy, PartialEq)]
enum To {
    Name,
    Value,
    Item(usize),
}

impl Step<'_, '_> {
    /// Called while serde_yaml reads the name or the item, so that it adds the location to the error.
    fn arrive<E: Error>(&mut self, name: &str) -> Result<(), E> {
        match self.to {
            To::Value => return Ok(()),
            To::Name => self.walk.key.push(name.to_owned()),
            To::Item(index) => self.walk.key.push(index.to_string()),
        }
        if (self.walk.stops_at)(&self.walk.key) { Err(E::custom("the walk stops here")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Step<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { walk, to } = self;
        let step = Step { walk: &mut *walk, to };
        if to == To::Name {
            return deserializer.deserialize_str(step);
        }
        deserializer.deserialize_any(step)?;
        // The part of the item, or of the name before the value. The file itself has none.
        walk.key.pop();
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(mut self, _: $type) -> Result<(), E> {
            self.arrive("")
        }
    )*};
}

impl<'de> Visitor<'de> for Step<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name before the colon")
    }

    scalars! { visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_i128(i128) visit_u128(u128) visit_f64(f64) }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.arrive(text)
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.arrive("")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.arrive("")?;
        let mut index = 0;
        while items.next_element_seed(Step { walk: &mut *self.walk, to: To::Item(index) })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        self.arrive("")?;
        while entries.next_key_seed(Step { walk: &mut *self.walk, to: To::Name })?.is_some() {
            entries.next_value_seed(Step { walk: &mut *self.walk, to: To::Value })?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(mut self, tagged: A) -> Result<(), A::Error> {
        self.arrive("")?;
        self.walk.tag = Some(format!("!{}", tagged.variant::<String>()?.0));
        Err(A::Error::custom("the walk stops here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_on_their_lines() {
        let text = "upstreams:\n  a: {servers: [x:1]}\nroutes:\n  - match: {path_prefix: /a}\n    upstream: a\n  - match:\n      path_prefix: b\n    # upstream: nope\n    'upstream': nope\n  - {\n      name: &c c,\n      \"limits\": &limits {\n        response_header: 1KiB}}\n  - limits: *limits\n    name:\n      *c\n";
        for (key, wanted) in [
            ("routes.1.upstream", 9),
            ("routes.0.upstream", 5),
            ("routes.1.match.path_prefix", 7),
            ("routes.1.timeouts.idle", 6),
            ("routes.2.name", 11),
            ("routes.2.limits", 12),
            ("routes.2.limits.response_header", 13),
            ("routes.3", 14),
            ("routes.3.limits", 14),
            ("routes.3.limits.response_header", 13),
            ("routes.3.name", 15),
            ("upstreams.a.servers.0", 2),
            ("nothing", 1),
        ] {
            assert_eq!(line_of(text, &key.split('.').map(str::to_owned).collect::<Vec<_>>()), wanted, "{key}");
        }
    }
}
