//! `access_log`: where lines go, which requests have one, and what they hide.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::values::{self, Percent};

/// Query arguments that usually hold a secret.
const SECRETS: [&str; 13] = [
    "token",
    "access_token",
    "id_token",
    "key",
    "api_key",
    "apikey",
    "authorization",
    "auth",
    "sig",
    "signature",
    "password",
    "secret",
    "code",
];

/// Where the lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// To standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to a file.
    File(std::path::PathBuf),
}

/// The access log. A text stands for the destination alone.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogConfig {
    /// Where the lines go.
    pub to: AccessLog,
    /// Which requests have a line.
    pub requests: LoggedRequests,
    /// The part of the pages that have one.
    pub sample: Percent,
    /// Query arguments whose values are hidden.
    pub mask: Vec<String>,
}

/// Which requests have a line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LoggedRequests {
    /// Those that became streams, when they end.
    #[default]
    Streams,
    /// Pages, too.
    All,
}

/// The keys of the map.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keys {
    to: AccessLog,
    requests: LoggedRequests,
    sample: Percent,
    #[serde(deserialize_with = "names")]
    mask: Vec<String>,
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    values::list(deserializer, "a list of names: `mask: [token, sig]`, or `[]` for none")
}

impl Default for Keys {
    fn default() -> Self {
        let mask = SECRETS.map(str::to_owned).to_vec();
        Self { to: AccessLog::Stdout, requests: LoggedRequests::Streams, sample: Percent(100.0), mask }
    }
}

impl From<Keys> for AccessLogConfig {
    fn from(Keys { to, requests, sample, mask }: Keys) -> Self {
        Self { to, requests, sample, mask }
    }
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Keys::default().into()
    }
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "off" => Ok(Self::Off),
            path if path.contains('/') => Ok(Self::File(path.into())),
            _ => Err(format!(
                "`{text}` is not a valid destination: write stdout, off, or a path with a slash, such as ./access.log"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "stdout, off, or a path")
    }
}

impl<'de> Deserialize<'de> for AccessLogConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrMap;
        impl<'de> Visitor<'de> for TextOrMap {
            type Value = AccessLogConfig;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("stdout, off, a path, or a map such as `access_log: {to: stdout, requests: all}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AccessLogConfig, E> {
                let to = text.parse().map_err(E::custom)?;
                Ok(AccessLogConfig { to, ..AccessLogConfig::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<AccessLogConfig, A::Error> {
                Keys::deserialize(MapAccessDeserializer::new(entries)).map(AccessLogConfig::from)
            }
        }
        deserializer.deserialize_any(TextOrMap)
    }
}

impl AccessLogConfig {
    /// Checks the keys beside each other.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if let Some(at) = self.mask.iter().position(|name| name.is_empty() || name.contains(['=', '&', '?', ';', ' ']))
        {
            let what = format!("is `{}`, which no query argument is called", self.mask[at]);
            let remedy = "write the name alone, such as token";
            return Err(Problem::new(&["access_log", "mask", &at.to_string()], what, remedy));
        }
        if self.sample.0 < 100.0 && self.requests == LoggedRequests::Streams {
            let what = "is set, and no pages are logged: every stream has its line";
            return Err(Problem::new(&["access_log", "sample"], what, "remove it, or write requests: all"));
        }
        Ok(())
    }
}
