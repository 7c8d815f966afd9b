//! Multiples of nginx's figures, of all rounds together and round by round.

use serde::{Deserialize, Serialize};

use super::figures::median;

/// Multiples of nginx's numbers; below 1 is better than nginx, but for `opening`, where it is worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// PssReadings memory per stream.
    pub memory: Option<f64>,
    /// CPU time per event.
    pub cpu: Option<f64>,
    /// Median latency.
    pub p50: Option<f64>,
    /// 99 % latency.
    pub p99: Option<f64>,
    /// Streams opened per second.
    #[serde(default)]
    pub opening: Option<f64>,
}

/// Multiples that were measured several times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Multiples of nginx's numbers, each target's round against nginx's of the same number: what disturbs the machine for a
/// while disturbs one round and not the median.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RatioSpreads {
    /// PssReadings memory per stream.
    pub memory: Option<Spread>,
    /// PssReadings memory per stream in traffic, one-time costs included.
    pub all_in: Option<Spread>,
    /// CPU time per event.
    pub cpu: Option<Spread>,
    /// Median latency.
    pub p50: Option<Spread>,
    /// 99 % latency.
    pub p99: Option<Spread>,
    /// Streams opened per second.
    pub opening: Option<Spread>,
    /// CPU time of the target per stream opened.
    pub opening_cpu: Option<Spread>,
}

impl Spread {
    /// Of some values; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let (min, max) = (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        Some(Self { median: median(values.iter().copied())?, min, max })
    }
}

/// One number as a multiple of another; `None` where that says nothing.
pub(super) fn multiple(mine: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    mine.zip(theirs).filter(|(mine, theirs)| *mine >= 0.0 && *theirs > 0.0).map(|(mine, theirs)| mine / theirs)
}
