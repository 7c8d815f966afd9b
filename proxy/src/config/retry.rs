//! Ranges of delays: `drain.retry` and `routes[].timeouts.lifetime_retry`.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::values::{self, Limit};
use crate::stream::RetryRange;

/// The longest delay: an `EventSource` that waits longer looks broken.
const LONGEST: Duration = Duration::from_secs(3600);

/// A range of delays, `1s-10s`, one delay, `3s`, or `off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryConfig(Option<RetryRange>);

impl RetryConfig {
    /// The range, if there is one.
    pub fn get(self) -> Option<RetryRange> {
        self.0
    }
}

impl FromStr for RetryConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text.trim(), "off" | "0") {
            return Ok(Self(None));
        }
        let remedy = "write a range such as 1s-10s, one delay such as 3s, or off";
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let delay = |part: &str| part.trim().parse::<Limit>().ok().and_then(Limit::get);
        let Some((min, max)) = delay(min).zip(delay(max)) else {
            return Err(format!("`{text}` is not a range of delays: {remedy}"));
        };
        if min > max {
            return Err(format!("`{text}` begins with the longer delay: {remedy}"));
        }
        if max > LONGEST {
            return Err(format!("`{text}` is longer than an hour: {remedy}"));
        }
        Ok(Self(Some(RetryRange::new(min, max))))
    }
}

impl<'de> Deserialize<'de> for RetryConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "a range of delays such as 1s-10s, or off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_delays_or_one() {
        let range =
            |min, max| Ok(RetryConfig(Some(RetryRange::new(Duration::from_millis(min), Duration::from_millis(max)))));
        assert_eq!("1s-10s".parse(), range(1000, 10_000));
        assert_eq!("500ms - 1m".parse(), range(500, 60_000));
        assert_eq!("3s".parse(), range(3000, 3000));
        assert_eq!("off".parse(), Ok(RetryConfig(None)));
        for bad in ["", "-", "1s-", "-1s", "1-10", "10s-1s", "0-1s", "1s-10s-20s", "1s-2h", "often"] {
            assert!(bad.parse::<RetryConfig>().is_err(), "{bad:?}");
        }
    }
}
