//! How the streams of a process that stops end, and when clients are told to come back.

use std::time::Duration;

use super::millis::Millis;

/// The times of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Each stream ends at an event boundary, at a moment of its own until then.
    pub spread_until: Millis,
    /// A stream that has not reached a boundary by then is cut.
    pub cut_at: Millis,
    /// The `retry:` field that streams end with.
    pub retry: Option<RetryRange>,
}

/// The range of the delay that a stream's last field, `retry:`, asks the client to wait before it connects again. Each stream gets a
/// random value in it.
///
/// The unit is the millisecond; "the event stream's reconnection time" is an integer number of them (WHATWG HTML §9.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryRange {
    /// The shortest, in milliseconds; 0 counts as 1.
    pub min_ms: u32,
    /// The longest, in milliseconds. One that is less than `min_ms` counts as `min_ms`.
    pub max_ms: u32,
}

impl RetryRange {
    /// Delays from `min` to `max`, both included. One that is longer than 49 days counts as 49 days.
    pub fn new(min: Duration, max: Duration) -> Self {
        let millis = |delay: Duration| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        Self { min_ms: millis(min), max_ms: millis(max) }
    }

    /// One delay; `random` is uniform in 0..1. Never 0.
    pub fn pick(self, random: f64) -> u32 {
        let min = self.min_ms.max(1);
        let width = f64::from(self.max_ms.saturating_sub(min)) + 1.0;
        // The cast saturates, and a random value of 1 would exceed the range by one.
        min.saturating_add((width * random) as u32).min(self.max_ms.max(min))
    }
}

impl Drain {
    /// The moment of one stream; `random` is uniform in 0..1.
    pub(super) fn moment(&self, random: f64, now: Millis) -> Millis {
        let left = self.spread_until.0.saturating_sub(now.0);
        now.after(Duration::from_millis(left).mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_within_its_range() {
        let seconds = |min: u64, max: u64| RetryRange::new(Duration::from_secs(min), Duration::from_secs(max));
        for (range, random, wanted) in [
            (seconds(1, 10), 0.0, 1000),
            (seconds(1, 10), 0.5, 5500),
            (seconds(1, 10), 1.0, 10_000),
            (seconds(3, 3), 0.9, 3000),
            (seconds(5, 1), 0.9, 5000),
            (seconds(0, 0), 0.9, 1),
            (seconds(u64::MAX, u64::MAX), 0.9, u32::MAX),
            (RetryRange::new(Duration::ZERO, Duration::MAX), 1.0, u32::MAX),
            (seconds(1, 10), f64::NAN, 1000),
        ] {
            assert_eq!(range.pick(random), wanted, "{range:?} at {random}");
        }
    }
}
