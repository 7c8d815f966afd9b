//! A histogram of the gaps between two events of a stream, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in milliseconds: 10 ms, and four times more each, to 11 minutes. A last bucket has the rest.
const BOUNDS_MS: [u64; 9] = [10, 40, 160, 640, 2_560, 10_240, 40_960, 163_840, 655_360];

/// Gaps by length. Two atomic additions for each.
#[derive(Debug, Default)]
pub struct EventGaps {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ms: AtomicU64,
}

impl EventGaps {
    /// Counts the gap before the first of `events` that came together, and none between them.
    pub(super) fn add(&self, gap_ms: u64, events: u64) {
        let bucket = BOUNDS_MS.iter().position(|bound| gap_ms <= *bound).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        if events > 1 {
            self.buckets[0].fetch_add(events - 1, Ordering::Relaxed);
        }
        self.sum_ms.fetch_add(gap_ms, Ordering::Relaxed);
    }

    /// The sum of all gaps, and the number in each bucket with its upper bound in seconds; the last is infinite.
    pub fn snapshot(&self) -> (Duration, Vec<(f64, u64)>) {
        let bounds = BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64());
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let sum = Duration::from_millis(self.sum_ms.load(Ordering::Relaxed));
        (sum, bounds.chain([f64::INFINITY]).zip(counts).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gap_is_in_the_bucket_of_its_length() {
        let gaps = EventGaps::default();
        for (gap_ms, events) in
            [(0, 1), (10, 1), (11, 1), (655_360, 1), (655_361, 1), (u64::from(u32::MAX), 1), (1000, 5)]
        {
            gaps.add(gap_ms, events);
        }
        let (sum, buckets) = gaps.snapshot();
        let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [6, 1, 0, 0, 1, 0, 0, 0, 1, 2], "{buckets:?}");
        assert_eq!(sum.as_millis(), 10 + 11 + 655_360 + 655_361 + u128::from(u32::MAX) + 1000);
        assert_eq!(buckets.last().map(|(bound, _)| bound.is_infinite()), Some(true));
    }
}
