//! Which running streams a request is about: pure.

use std::time::Duration;

use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use crate::config::{Limit, Network};
use crate::driver::{RunningStream, StreamId};

/// Streams in one answer, unless the request sets a limit.
const DEFAULT_LIMIT: usize = 1000;

/// The largest limit: some 50 MB of text.
const MAX_LIMIT: usize = 100_000;

/// The filters of a request. A stream has to match all of them.
#[derive(Debug, Default)]
pub(super) struct Query {
    id: Option<StreamId>,
    route: Option<String>,
    client: Option<IpNet>,
    labels: Vec<(String, String)>,
    min_age: Option<Duration>,
    limit: Option<usize>,
}

impl Query {
    /// Reads the query of a target.
    ///
    /// # Errors
    /// What is wrong. An argument that is not known is: a filter that was misspelt must not end all streams.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for argument in query.split('&').filter(|argument| !argument.is_empty()) {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
            parsed.read(name, &value)?;
        }
        Ok(parsed)
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is_repeated = match name {
            "id" => {
                let id = value.parse().map_err(|()| format!("id is `{value}`: write one as the list shows it"))?;
                self.id.replace(id).is_some()
            }
            "route" => self.route.replace(value.to_owned()).is_some(),
            "client" => {
                let client: Network = value.parse().map_err(|error| format!("client: {error}"))?;
                self.client.replace(client.0).is_some()
            }
            "label" => {
                let label = value.split_once('=').filter(|(name, _)| !name.is_empty());
                let (name, value) =
                    label.ok_or_else(|| format!("label is `{value}`: write name=value, such as user=42"))?;
                self.labels.push((name.to_owned(), value.to_owned()));
                false
            }
            "min_age" => {
                let age: Limit = value.parse().map_err(|error| format!("min_age: {error}"))?;
                self.min_age.replace(age.get().unwrap_or_default()).is_some()
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                let limit = limit.ok_or_else(|| format!("limit is `{value}`: write a number from 1 to {MAX_LIMIT}"))?;
                self.limit.replace(limit).is_some()
            }
            _ => {
                return Err(format!("`{name}` is not known: there are id, route, client, label, min_age and limit"));
            }
        };
        if is_repeated { Err(format!("{name} stands there twice")) } else { Ok(()) }
    }

    /// The number of streams to show.
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT)
    }

    /// Whether it is good enough for ending streams.
    ///
    /// # Errors
    /// What is missing, or too much.
    pub(super) fn check_for_ending(&self) -> Result<(), String> {
        if self.limit.is_some() {
            return Err("limit is not for ending streams: all that match are ended".to_owned());
        }
        if self.id.is_none() && self.route.is_none() && self.client.is_none() && self.labels.is_empty() {
            return Err("name the streams to end with label, id, route or client".to_owned());
        }
        Ok(())
    }

    /// Whether a stream matches.
    pub(super) fn matches(&self, stream: &RunningStream<'_>) -> bool {
        let info = stream.info();
        self.id.is_none_or(|id| id == stream.id())
            && self.route.as_ref().is_none_or(|route| **route == **stream.route())
            && self.min_age.is_none_or(|age| stream.age() >= age)
            && self
                .client
                .is_none_or(|network| info.client().is_some_and(|client| network.contains(&client.ip().to_canonical())))
            && self.labels.iter().all(|(name, value)| info.labels().any(|label| label == (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_refused_unless_all_of_it_is_understood() {
        for good in
            ["", "route=%2Fevents&limit=5", "label=user%3D42&label=org=7", "client=10.0.0.0/8&min_age=5m", "id=1-2-3"]
        {
            assert!(Query::parse(good).is_ok(), "{good}: {:?}", Query::parse(good));
        }
        for bad in [
            "lable=user=42",
            "label=user",
            "label==42",
            "label",
            "limit=0",
            "limit=x",
            "limit=999999",
            "id=1",
            "client=me",
            "min_age=5",
            "route=a&route=b",
            "route=%ff",
            "user=42",
        ] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn streams_are_ended_only_by_name() {
        for (query, wanted) in [
            ("", false),
            ("min_age=1h", false),
            ("label=user=42", true),
            ("route=/", true),
            ("client=10.0.0.1", true),
            ("id=1-2-3", true),
            ("label=user=42&limit=1", false),
        ] {
            let query = Query::parse(query).expect(query);
            assert_eq!(query.check_for_ending().is_ok(), wanted, "{query:?}");
        }
    }
}
