//! Distributions in a few numbers.

use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::record::Record;

/// Delivery latency in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    pub p999: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}

/// Two percentiles of a time, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
}

impl From<&Distribution> for Percentiles {
    fn from(distribution: &Distribution) -> Self {
        Self { p50: distribution.quantile(0.5), p99: distribution.quantile(0.99) }
    }
}

impl Latency {
    /// The percentiles of a record.
    pub(super) fn of(record: &Record) -> Self {
        let latency = &record.latency_us;
        Self {
            p50: latency.quantile(0.5),
            p99: latency.quantile(0.99),
            p999: latency.quantile(0.999),
            max: latency.max(),
        }
    }
}
