//! `routes[].on_unavailable` and `routes[].retry_after`: what a client gets whose request cannot be served now.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::values::{self, Limit};
use crate::takeover::RetryAfter;

/// The longest time: an `EventSource` that waits longer looks broken.
const LONGEST: Duration = Duration::from_secs(3600);

/// What an `EventSource` gets when the upstream fails before its response head.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailable {
    /// 502 or 504, after which it does not come back.
    #[default]
    Error,
    /// 200, an event stream with one `retry:` field, and its end.
    RetryLater,
}

/// A range of times: `5s-30s`, or one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryRange(pub RetryAfter);

impl FromStr for RetryRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{text}` is not a valid range: {why}write two durations, such as 5s-30s");
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let time = |text: &str| text.trim().parse::<Limit>().ok().and_then(Limit::get);
        match (time(min), time(max)) {
            (Some(_), Some(max)) if max > LONGEST => Err(bad("it is longer than an hour; ")),
            (Some(min), Some(max)) if min <= max => Ok(Self(RetryAfter { min, max })),
            (Some(_), Some(_)) => Err(bad("put the shorter time first; ")),
            _ => Err(bad("")),
        }
    }
}

impl<'de> Deserialize<'de> for RetryRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "a range such as 5s-30s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_the_shorter_time_first() {
        let range =
            |min, max| Ok(RetryRange(RetryAfter { min: Duration::from_millis(min), max: Duration::from_millis(max) }));
        for (text, expected) in
            [("5s-30s", range(5000, 30_000)), ("500ms - 1m", range(500, 60_000)), ("7s", range(7000, 7000))]
        {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for bad in ["", "5", "0", "0-5s", "30s-5s", "5s-", "-5s", "5s-6s-7s", "1s-2h"] {
            assert!(bad.parse::<RetryRange>().is_err(), "{bad:?}");
        }
    }
}
