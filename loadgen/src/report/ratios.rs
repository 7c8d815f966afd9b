//! Multiples of nginx's numbers: of all rounds together, and round by round.

use serde::{Deserialize, Serialize};

use super::compare::TargetReport;
use super::figures::median;
use super::round::RoundReport;

/// Multiples of nginx's numbers; below 1 is better than nginx, but for `opening`, where it is worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// User memory per stream.
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
    /// User memory per stream.
    pub memory: Option<Spread>,
    /// User memory per stream in traffic, one-time costs included.
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

impl Ratios {
    /// Of all rounds together.
    pub(super) fn between(target: &TargetReport, nginx: &TargetReport) -> Self {
        let whole =
            |mine: Option<u64>, theirs: Option<u64>| multiple(mine.map(|us| us as f64), theirs.map(|us| us as f64));
        Self {
            memory: multiple(target.memory.user_bytes_per_stream, nginx.memory.user_bytes_per_stream),
            cpu: multiple(target.cpu_us_per_event, nginx.cpu_us_per_event),
            p50: whole(target.latency_us.p50, nginx.latency_us.p50),
            p99: whole(target.latency_us.p99, nginx.latency_us.p99),
            opening: multiple(target.opening.per_second, nginx.opening.per_second),
        }
    }
}

impl Spread {
    /// Of some values; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let (min, max) = (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        Some(Self { median: median(values.iter().copied())?, min, max })
    }
}

impl RatioSpreads {
    /// Round by round, as far as both have been measured.
    pub(super) fn between(target: &TargetReport, nginx: &TargetReport) -> Self {
        let spread = |of: &dyn Fn(&RoundReport) -> Option<f64>| {
            let pairs = target.rounds.iter().zip(&nginx.rounds);
            let ratios: Vec<f64> = pairs.filter_map(|(mine, theirs)| multiple(of(mine), of(theirs))).collect();
            Spread::of(&ratios)
        };
        Self {
            memory: spread(&|round| round.user_bytes_per_stream),
            all_in: spread(&|round| round.user_bytes_per_stream_in_traffic),
            cpu: spread(&|round| round.cpu_us_per_event),
            p50: spread(&|round| Some(round.latency_us.p50? as f64)),
            p99: spread(&|round| Some(round.latency_us.p99? as f64)),
            opening: spread(&|round| round.opening.per_second),
            opening_cpu: spread(&|round| round.opening.cpu_us_per_stream),
        }
    }
}

/// One number as a multiple of another; `None` where that says nothing.
pub(super) fn multiple(mine: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    mine.zip(theirs).filter(|(mine, theirs)| *mine >= 0.0 && *theirs > 0.0).map(|(mine, theirs)| mine / theirs)
}
