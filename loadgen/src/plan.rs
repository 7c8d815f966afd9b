//! When each stream opens, and between which addresses: pure arithmetic over stream and connection numbers.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const MAX_SOURCES: u128 = 65_536;

/// How streams are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Ramp {
    /// All of them within this time.
    Over(Duration),
    /// So many per second.
    PerSecond(f64),
}

/// Why a ramp or a list of sources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Neither a time nor a rate.
    #[error("`{0}`: expected a time such as 10s or a rate such as 500/s")]
    Ramp(String),
    /// Not an address or a range of them.
    #[error("`{0}`: expected an address, or a range such as 127.0.0.2-127.0.0.9")]
    Source(String),
    /// More sources than make sense.
    #[error("`{0}`: more than 65536 addresses")]
    TooManySources(String),
}

impl FromStr for Ramp {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let refuse = || PlanError::Ramp(text.to_owned());
        if let Some(rate) = text.strip_suffix("/s") {
            let rate: f64 = rate.parse().map_err(|_| refuse())?;
            return if rate.is_finite() && rate > 0.0 { Ok(Self::PerSecond(rate)) } else { Err(refuse()) };
        }
        humantime::parse_duration(text).map(Self::Over).map_err(|_| refuse())
    }
}

impl Ramp {
    /// When stream `index` of `total` is intended, counted from the start.
    #[must_use]
    pub fn offset(self, index: u64, total: u64) -> Duration {
        match self {
            Self::Over(time) => time.mul_f64(index as f64 / total.max(1) as f64),
            Self::PerSecond(rate) => Duration::from_secs_f64(index as f64 / rate),
        }
    }

    /// How long the ramp takes.
    #[must_use]
    pub fn length(self, total: u64) -> Duration {
        self.offset(total, total)
    }
}

/// Source and destination of connection `index`: destinations in turn, and the next source after each turn, so that every
/// pair of the two is used equally.
#[must_use]
pub fn pair(index: u64, sources: usize, destinations: usize) -> (Option<usize>, usize) {
    let destination = index % destinations as u64;
    let source = (sources > 0).then(|| (index / destinations as u64 % sources as u64) as usize);
    (source, destination as usize)
}

/// The connection that stream `number` goes to, and how many of its streams come before: each of n workers has every nth
/// stream, and fills one connection after the other with its own.
#[must_use]
pub fn share(number: u64, workers: u64, per_connection: u64) -> (u64, u64) {
    let (own, worker) = (number / workers, number % workers);
    (own / per_connection * workers + worker, own % per_connection)
}

/// How many connections `streams` take.
#[must_use]
pub fn connections(streams: u64, workers: u64, per_connection: u64) -> u64 {
    // The first `more` workers have one stream more than the others.
    let (each, more) = (streams / workers, streams % workers);
    (each + 1).div_ceil(per_connection) * more + each.div_ceil(per_connection) * (workers - more)
}

/// Reads `127.0.0.2-127.0.0.9,127.0.1.1`.
///
/// # Errors
/// The part that is not understood.
pub fn parse_sources(text: &str) -> Result<Vec<IpAddr>, PlanError> {
    let mut sources = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let refuse = || PlanError::Source(part.to_owned());
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| refuse());
        match (parse(first)?, parse(last)?) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                let (first, last) = (u32::from(first), u32::from(last));
                bounded(u128::from(last - first), part)?;
                sources.extend((first..=last).map(|bits| IpAddr::V4(bits.into())));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                let (first, last) = (u128::from(first), u128::from(last));
                bounded(last - first, part)?;
                sources.extend((first..=last).map(|bits| IpAddr::V6(bits.into())));
            }
            _ => return Err(refuse()),
        }
    }
    Ok(sources)
}

fn bounded(addresses: u128, part: &str) -> Result<(), PlanError> {
    if addresses < MAX_SOURCES { Ok(()) } else { Err(PlanError::TooManySources(part.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_ramp_is_a_time_or_a_rate() {
        assert_eq!("10s".parse(), Ok(Ramp::Over(Duration::from_secs(10))));
        assert_eq!("500/s".parse(), Ok(Ramp::PerSecond(500.0)));
        for text in ["", "10", "0/s", "-1/s", "inf/s", "x/s", "10/m"] {
            assert!(text.parse::<Ramp>().is_err(), "{text}");
        }
    }

    #[test]
    fn intended_times_are_evenly_spread() {
        let over = Ramp::Over(Duration::from_secs(10));
        assert_eq!(over.offset(0, 1000), Duration::ZERO);
        assert_eq!(over.offset(500, 1000), Duration::from_secs(5));
        assert_eq!(Ramp::PerSecond(250.0).offset(500, 1000), Duration::from_secs(2));
        assert_eq!(Ramp::PerSecond(250.0).length(1000), Duration::from_secs(4));
    }

    #[test]
    fn every_pair_of_source_and_destination_is_used_equally() {
        let mut uses = HashMap::new();
        for index in 0..1200 {
            *uses.entry(pair(index, 4, 3)).or_insert(0) += 1;
        }
        assert_eq!(uses.len(), 12);
        assert!(uses.values().all(|count| *count == 100));
        assert_eq!(pair(5, 0, 2), (None, 1));
    }

    #[test]
    fn streams_fill_one_connection_of_their_worker_after_the_other() {
        for (streams, workers, per_connection) in [(1, 1, 1), (250, 1, 100), (1000, 3, 7), (31, 4, 100), (64, 8, 8)] {
            let mut held = HashMap::new();
            for number in 0..streams {
                let (connection, position) = share(number, workers, per_connection);
                let (worker, count) = held.entry(connection).or_insert((number % workers, 0));
                assert_eq!((number % workers, position), (*worker, *count), "{number}");
                *count += 1;
            }
            assert!(held.values().all(|(_, count)| *count <= per_connection));
            assert_eq!(held.len() as u64, connections(streams, workers, per_connection));
        }
        assert!((0..100).all(|number| share(number, 3, 1) == (number, 0)));
    }

    #[test]
    fn sources_are_addresses_and_ranges() {
        let sources = parse_sources("127.0.0.2-127.0.0.4,127.0.1.1,::1").expect("valid");
        assert_eq!(
            sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.1.1", "::1"]
        );
        for text in ["", "127.0.0.9-127.0.0.2", "127.0.0.1-::1", "host", "10.0.0.0-10.255.255.255"] {
            assert!(parse_sources(text).is_err(), "{text}");
        }
    }
}
