//! Hides secrets in the targets of requests that are logged or shown.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What stands in place of a hidden value.
const MASKED: &str = "***";

/// The names of query arguments whose values are hidden.
#[derive(Clone, Debug, Default)]
pub struct Mask(Vec<String>);

impl Mask {
    /// Hides the values of these arguments; upper and lower case are the same.
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// The target with hidden values.
    pub fn target<'t>(&self, target: &'t str) -> Cow<'t, str> {
        let Some((path, query)) = target.split_once('?').filter(|_| !self.0.is_empty()) else { return target.into() };
        let is_secret = |argument: &&str| argument.split_once('=').is_some_and(|(name, _)| self.hides(name));
        if !query.split(['&', ';']).any(|argument| is_secret(&argument)) {
            return target.into();
        }
        let mut masked = format!("{path}?");
        for argument in query.split_inclusive(['&', ';']) {
            match argument.split_once('=') {
                Some((name, value)) if self.hides(name) => {
                    masked.extend([name, "=", MASKED, &value[value.trim_end_matches(['&', ';']).len()..]]);
                }
                _ => masked.push_str(argument),
            }
        }
        masked.into()
    }

    /// A name may be written with percent-encoded letters, which servers decode.
    fn hides(&self, name: &str) -> bool {
        let name = percent_decode_str(name).decode_utf8_lossy();
        self.0.iter().any(|hidden| hidden.eq_ignore_ascii_case(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_named_arguments_are_hidden() {
        let mask = Mask::new(&["token".to_owned(), "API_key".to_owned()]);
        for (target, shown) in [
            ("/events", "/events"),
            ("/events?", "/events?"),
            ("/events?room=7&tokens=1", "/events?room=7&tokens=1"),
            ("/events?token=abc", "/events?token=***"),
            ("/events?token=a=b&room=7", "/events?token=***&room=7"),
            ("/events?room=7&TOKEN=abc;Api_Key=d&x", "/events?room=7&TOKEN=***;Api_Key=***&x"),
            ("/events?%74ok%65n=abc", "/events?%74ok%65n=***"),
            ("/events?token=", "/events?token=***"),
            ("/events?token", "/events?token"),
            ("/events?a=1&token=abc…", "/events?a=1&token=***"),
            ("/token=abc", "/token=abc"),
            ("/events?%ff=1&token=abc", "/events?%ff=1&token=***"),
        ] {
            assert_eq!(mask.target(target), shown, "{target}");
        }
        assert_eq!(Mask::default().target("/?token=abc"), "/?token=abc");
    }
}
