//! `limits` and `routes[].limits`, and the value of `routes[].retry_after`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::values::{self, Limit, Size};
use crate::limits::Rate;
use crate::takeover::{RetryAfter, RetryAnswer};

/// The largest number of a rate.
const MOST_EVENTS: u32 = 1_000_000;

/// The longest time after which clients are asked to come back: an `EventSource` that waits longer looks broken.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Limits of the whole process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `limits: {streams: 50000}`")]
pub struct Limits {
    /// Streams at once (`worker_connections`, `maxconn`).
    pub streams: Option<usize>,
}

/// Limits on the size of what an upstream sends, and on streams.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `limits: {response_header: 64KiB}`")]
pub struct RouteLimits {
    /// A response head, interim or final (`proxy_buffer_size`, `tune.bufsize`, `max_response_headers_kb`).
    pub response_header: Size,
    /// Streams at once (`limit_conn` with a constant key, `maxconn`).
    pub streams: Option<usize>,
    /// Streams of each client at once (`limit_conn`, `conn_cur` of a stick table).
    pub streams_per_client: Option<u32>,
    /// The rate at which streams open (`limit_req` with a constant key, `rate-limit sessions`, `local_ratelimit`).
    pub opening_rate: Option<OpeningRate>,
    /// The rate at which each client opens streams (`limit_req`, `http_req_rate` of a stick table).
    pub opening_rate_per_client: Option<OpeningRate>,
    /// What tells clients apart (the key of `limit_conn_zone`, `stick-table type`).
    pub client: ClientBy,
    /// The answer to a request that exceeds a limit (`limit_conn_status`, `http-request deny`).
    pub on_limit: RetryAnswer,
}

/// So many events in a second, a minute or an hour: `500/s`, `30/m`, `100/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningRate(pub Rate);

/// A range of times: `5s-30s`, or one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryRange(pub RetryAfter);

/// What tells clients apart: `address`, or a map with one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientBy {
    /// The address.
    #[default]
    Address,
    /// A request field, a cookie, or an argument of the query.
    Named(ClientNames),
}

/// The one key of [`ClientBy::Named`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct ClientNames {
    /// Name of a request field.
    pub header: Option<String>,
    /// Name of a cookie.
    pub cookie: Option<String>,
    /// Name of an argument of the query.
    pub query: Option<String>,
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), Problem> {
        check_number(&["limits", "streams"], self.streams)
    }
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self {
            response_header: Size::kib(64),
            streams: None,
            streams_per_client: None,
            opening_rate: None,
            opening_rate_per_client: None,
            client: ClientBy::default(),
            on_limit: RetryAnswer::default(),
        }
    }
}

impl RouteLimits {
    /// Checks the limits on streams.
    pub(super) fn check(&self) -> Result<(), Problem> {
        check_number(&["streams"], self.streams)?;
        check_number(&["streams_per_client"], self.streams_per_client.map(|number| number as usize))?;
        let ClientBy::Named(ClientNames { header, cookie, query }) = &self.client else { return Ok(()) };
        let is_token = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok();
        let is_argument = |name: &str| !name.is_empty() && !name.contains(['&', '=', '#', ' ']);
        let names = [("header", header), ("cookie", cookie), ("query", query)];
        let mut named = names.into_iter().filter_map(|(kind, name)| Some((kind, name.as_deref()?)));
        let (Some((kind, name)), None) = (named.next(), named.next()) else {
            let remedy = "write one of `{header: X-Tenant}`, `{cookie: session}`, `{query: user}`";
            return Err(Problem::new(&["client"], "has to have one key", remedy));
        };
        if if kind == "query" { is_argument(name) } else { is_token(name) } {
            return Ok(());
        }
        let what = format!("is `{name}`, which is not a name");
        Err(Problem::new(&["client", kind], what, "write the name alone, such as X-Tenant, session or user"))
    }

    /// Settings that are valid and probably not meant, of a route that has streams or none.
    pub(super) fn warnings(&self, has_streams: bool) -> Vec<Problem> {
        let is_per_client = self.streams_per_client.is_some() || self.opening_rate_per_client.is_some();
        let is_limited = is_per_client || self.streams.is_some() || self.opening_rate.is_some();
        let mut warnings = Vec::new();
        if is_limited && !has_streams {
            let what = "limit streams, and the route has none (stream: never)";
            warnings.push(Problem::new(&["limits"], what, "remove them, or change stream"));
        }
        if self.client != ClientBy::Address && !is_per_client {
            let what = "has no effect: the route has no limit for each client";
            let remedy = "add streams_per_client or opening_rate_per_client, or remove it";
            warnings.push(Problem::new(&["limits", "client"], what, remedy));
        }
        if let (Some(all), Some(each)) = (self.streams, self.streams_per_client)
            && each as usize >= all
        {
            let what = format!("is {each}, and limits.streams is {all}: one client may take all streams of the route");
            warnings.push(Problem::new(&["limits", "streams_per_client"], what, "write less than limits.streams"));
        }
        warnings
    }
}

fn check_number(key: &[&str], number: Option<usize>) -> Result<(), Problem> {
    match number {
        Some(0) => Err(Problem::new(key, "is 0, which would refuse every stream", "leave it out for no limit")),
        _ => Ok(()),
    }
}

impl FromStr for OpeningRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is not a valid rate: write a number for a second, minute or hour, such as 500/s");
        let (events, unit) = text.split_once('/').ok_or_else(bad)?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(bad()),
        };
        let events = events.trim().parse::<u32>().ok().filter(|events| (1..=MOST_EVENTS).contains(events));
        Ok(Self(Rate::new(events.ok_or_else(bad)?, Duration::from_secs(seconds))))
    }
}

impl FromStr for RetryRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{text}` is not a valid range: {why}write two durations, such as 5s-30s");
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let time = |text: &str| text.trim().parse::<Limit>().ok().and_then(Limit::get);
        match (time(min), time(max)) {
            (Some(_), Some(max)) if max > LONGEST_RETRY => Err(bad("it is longer than an hour; ")),
            (Some(min), Some(max)) if min <= max => Ok(Self(RetryAfter { min, max })),
            (Some(_), Some(_)) => Err(bad("put the shorter time first; ")),
            _ => Err(bad("")),
        }
    }
}

impl<'de> Deserialize<'de> for OpeningRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "a rate such as 500/s")
    }
}

impl<'de> Deserialize<'de> for RetryRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "a range such as 5s-30s")
    }
}

impl<'de> Deserialize<'de> for ClientBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kinds;
        impl<'de> Visitor<'de> for Kinds {
            type Value = ClientBy;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`address`, or a map such as `{cookie: session}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ClientBy, E> {
                let remedy = "write address, {header: X-Tenant}, {cookie: session} or {query: user}";
                let other = || E::custom(format!("`{text}` is not a way to tell clients apart: {remedy}"));
                (text == "address").then_some(ClientBy::Address).ok_or_else(other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClientBy, A::Error> {
                ClientNames::deserialize(MapAccessDeserializer::new(map)).map(ClientBy::Named)
            }
        }
        deserializer.deserialize_any(Kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_for_a_period() {
        for (text, events, seconds) in
            [("500/s", 500, 1), ("30 / m", 30, 60), ("1/h", 1, 3600), ("1000000/s", 1_000_000, 1)]
        {
            let rate = Rate::new(events, Duration::from_secs(seconds));
            assert_eq!(text.parse(), Ok(OpeningRate(rate)), "{text}");
        }
        for bad in ["", "500", "/s", "0/s", "-1/s", "1.5/s", "500/d", "500/ms", "1000001/s", "5s"] {
            assert!(bad.parse::<OpeningRate>().is_err(), "{bad:?}");
        }
    }

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
