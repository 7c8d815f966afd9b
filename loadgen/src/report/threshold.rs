//! Conditions on a result that make a command fail: `p99>50ms`, `lost>0`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::record::Record;

/// `METRIC > LIMIT`.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    metric: Metric,
    /// Microseconds or a plain count.
    limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    Latency(f64),
    FirstByte(f64),
    FirstByteFromDue(f64),
    Lost,
    Duplicated,
    Torn,
    Corrupted,
    Failed,
}

/// Why a threshold is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}`: expected METRIC>LIMIT, where METRIC is one of p50 p90 p99 p999 max ttfb_p50 ttfb_p99 ttfb_due_p50 ttfb_due_p99 (limit a time such as 50ms), \
     lost duplicated torn corrupted failed (limit a count)"
)]
pub struct ThresholdError(String);

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let refuse = || ThresholdError(text.to_owned());
        let (name, limit) = text.split_once('>').ok_or_else(refuse)?;
        let metric = match name.trim() {
            "p50" => Metric::Latency(0.5),
            "p90" => Metric::Latency(0.9),
            "p99" => Metric::Latency(0.99),
            "p999" => Metric::Latency(0.999),
            "max" => Metric::Latency(1.0),
            "ttfb_p50" => Metric::FirstByte(0.5),
            "ttfb_p99" => Metric::FirstByte(0.99),
            "ttfb_due_p50" => Metric::FirstByteFromDue(0.5),
            "ttfb_due_p99" => Metric::FirstByteFromDue(0.99),
            "lost" => Metric::Lost,
            "duplicated" => Metric::Duplicated,
            "torn" => Metric::Torn,
            "corrupted" => Metric::Corrupted,
            "failed" => Metric::Failed,
            _ => return Err(refuse()),
        };
        let limit = match metric {
            Metric::Latency(_) | Metric::FirstByte(_) | Metric::FirstByteFromDue(_) => {
                humantime::parse_duration(limit.trim()).map(|limit| limit.as_micros() as u64).map_err(|_| refuse())?
            }
            _ => limit.trim().parse().map_err(|_| refuse())?,
        };
        Ok(Self { text: text.to_owned(), metric, limit })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Threshold {
    /// Whether the result is above the limit. Nothing measured is above every limit of a time.
    #[must_use]
    pub fn is_crossed(&self, record: &Record) -> bool {
        let value = match self.metric {
            Metric::Latency(quantile) => record.latency_us.quantile(quantile).unwrap_or(u64::MAX),
            Metric::FirstByte(quantile) => record.ttfb_us.quantile(quantile).unwrap_or(u64::MAX),
            Metric::FirstByteFromDue(quantile) => record.ttfb_from_due_us.quantile(quantile).unwrap_or(u64::MAX),
            Metric::Lost => record.integrity.lost,
            Metric::Duplicated => record.integrity.duplicated,
            Metric::Torn => record.integrity.torn,
            Metric::Corrupted => record.integrity.corrupted,
            Metric::Failed => record.counts.attempted - record.counts.streams,
        };
        value > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_times_or_counts() {
        let mut record = Record::default();
        record.latency_us.record(60_000);
        record.integrity.lost = 2;
        for (text, crossed) in
            [("p99>50ms", true), ("p99 > 70ms", false), ("max>59ms", true), ("lost>1", true), ("lost>2", false)]
        {
            assert_eq!(text.parse::<Threshold>().expect(text).is_crossed(&record), crossed, "{text}");
        }
        for text in ["p99", "p98>1ms", "p99>50", "lost>1ms", "p99<50ms"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_measured_does_not_pass() {
        assert!("p99>1h".parse::<Threshold>().expect("valid").is_crossed(&Record::default()));
    }
}
