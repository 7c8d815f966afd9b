//! A histogram of times that can be written, read again, and added to another without losing anything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Values are recorded from 1 µs to one hour, to three significant digits.
const MAX_US: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// A histogram, and what did not fit into it.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    histogram: Histogram<u64>,
    /// Values above an hour, recorded as an hour.
    pub clipped: u64,
    /// Values below zero, recorded as zero: the clocks of both ends disagree.
    pub negative: u64,
}

/// Why an encoded histogram cannot be added to those of this program.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistogramError {
    /// Not base64, or not a histogram.
    #[error("not an HdrHistogram in its V2 encoding")]
    Encoding,
    /// Other buckets: adding would move values, and percentiles with them.
    #[error(
        "its buckets range from {low} to {high} with {digits} significant digits, those of this version from 1 to {MAX_US} with \
         {SIGNIFICANT_DIGITS}: they cannot be merged exactly"
    )]
    Buckets {
        /// The lowest value that differs from 0.
        low: u64,
        /// The highest value.
        high: u64,
        /// Significant decimal digits.
        digits: u8,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v2_base64: String,
    clipped: u64,
    negative: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        let bounds = Histogram::new_with_bounds(1, MAX_US, SIGNIFICANT_DIGITS);
        Self { histogram: bounds.expect("constant bounds are valid"), clipped: 0, negative: 0 }
    }
}

impl Distribution {
    /// Records one value.
    pub fn record(&mut self, value: u64) {
        if self.histogram.record(value).is_err() {
            self.clipped += 1;
            self.histogram.saturating_record(MAX_US);
        }
    }

    /// Records the time from `start` to `end`, which ought not to be negative.
    pub fn record_between(&mut self, start: u64, end: u64) {
        if end < start {
            self.negative += 1;
        }
        self.record(end.saturating_sub(start));
    }

    /// The values themselves.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The value at a quantile between 0 and 1; `None` when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        (!self.histogram.is_empty()).then(|| self.histogram.value_at_quantile(quantile))
    }

    /// The largest value; `None` when nothing was recorded.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (!self.histogram.is_empty()).then(|| self.histogram.max())
    }

    /// Adds another distribution, without loss.
    pub fn merge(&mut self, other: &Self) {
        // Equal bounds: adding cannot fail.
        let _ = self.histogram.add(&other.histogram);
        self.clipped += other.clipped;
        self.negative += other.negative;
    }

    /// The histogram in the V2 encoding, deflated, base64: as `.hlog` files carry it.
    #[must_use]
    pub fn to_v2_base64(&self) -> String {
        let mut bytes = Vec::new();
        // Writing to memory cannot fail.
        let _ = V2DeflateSerializer::new().serialize(&self.histogram, &mut bytes);
        STANDARD.encode(bytes)
    }

    /// What [`Self::to_v2_base64`] wrote, deflated or not, with the counts that stand beside it.
    ///
    /// # Errors
    /// When it cannot be read, or has other buckets than every histogram here.
    pub fn from_v2_base64(text: &str, clipped: u64, negative: u64) -> Result<Self, HistogramError> {
        let bytes = STANDARD.decode(text).map_err(|_| HistogramError::Encoding)?;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|_| HistogramError::Encoding)?;
        let (low, high, digits) = (histogram.low(), histogram.high(), histogram.sigfig());
        if (low, high, digits) != (1, MAX_US, SIGNIFICANT_DIGITS) {
            return Err(HistogramError::Buckets { low, high, digits });
        }
        Ok(Self { histogram, clipped, negative })
    }
}

impl Serialize for Distribution {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire { v2_base64: self.to_v2_base64(), clipped: self.clipped, negative: self.negative }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        let wire = Wire::deserialize(deserializer)?;
        Self::from_v2_base64(&wire.v2_base64, wire.clipped, wire.negative).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut distribution = Distribution::default();
        distribution.record(MAX_US * 2);
        distribution.record_between(100, 40);
        assert_eq!((distribution.clipped, distribution.negative), (1, 1));
        assert_eq!(distribution.histogram().len(), 2);
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn other_buckets_are_refused_and_named() {
        let mut foreign: Histogram<u64> = Histogram::new_with_bounds(1, 1_000_000, 2).expect("valid");
        foreign.record(50).expect("fits");
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&foreign, &mut bytes).expect("written");
        let error = Distribution::from_v2_base64(&STANDARD.encode(bytes), 0, 0).expect_err("other buckets");
        assert_eq!(error, HistogramError::Buckets { low: 1, high: 1_000_000, digits: 2 });
        assert_eq!(Distribution::from_v2_base64("nonsense!", 0, 0), Err(HistogramError::Encoding));
    }
}
