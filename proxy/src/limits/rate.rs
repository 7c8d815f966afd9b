//! The rate of an event, limited by the generic cell rate algorithm (GCRA): one number for each limit.
//!
//! The number is the time at which the burst will have been paid back. It is as exact as a token bucket, and needs
//! neither a timer nor a second number for the last update.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::stream::Millis;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// So many events in a period. All of them may come at once; then each has to wait for its share of the period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// At least one event, in a period that is not zero.
    pub fn new(events: u32, period: Duration) -> Self {
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        let interval_ns = (period_ns / u64::from(events.max(1))).max(1);
        Self { interval_ns, burst_ns: period_ns - interval_ns }
    }

    /// Admits an event at `now`, and returns what `paid_back_at` is then; `None` if the rate is exceeded. It is 0 at first.
    pub(super) fn admit(self, paid_back_at: u64, now: Millis) -> Option<u64> {
        let now_ns = now.0.saturating_mul(NANOS_PER_MILLI);
        let mut from = paid_back_at.max(now_ns);
        if from - now_ns > (self.interval_ns + self.burst_ns).saturating_mul(2) {
            // Another rate was in force, which needs more time. Twice the period, since `now` differs between threads.
            from = now_ns.saturating_add(self.burst_ns);
        }
        (from - now_ns <= self.burst_ns).then(|| from.saturating_add(self.interval_ns))
    }
}

/// Whether nothing is left to pay back: forgetting the number changes nothing.
pub(super) fn is_paid_back(paid_back_at: u64, now: Millis) -> bool {
    paid_back_at <= now.0.saturating_mul(NANOS_PER_MILLI)
}

/// The rate of all streams of a route.
#[derive(Debug, Default)]
pub struct RateCounter(AtomicU64);

impl RateCounter {
    /// Admits an event, unless it exceeds `rate`.
    pub fn admit(&self, rate: Rate, now: Millis) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_back_at| rate.admit(paid_back_at, now)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token bucket, as the reference: `events` tokens at most, refilled continuously.
    struct Bucket {
        events: f64,
        tokens: f64,
        period: f64,
        at: u64,
    }

    impl Bucket {
        fn admit(&mut self, now: u64) -> bool {
            let refilled = (now - self.at) as f64 / self.period * self.events;
            (self.tokens, self.at) = ((self.tokens + refilled).min(self.events), now);
            // Sums of fractions are not exact.
            let admitted = self.tokens > 1.0 - 1e-6;
            if admitted {
                self.tokens -= 1.0;
            }
            admitted
        }
    }

    #[test]
    fn a_rate_admits_what_a_token_bucket_admits() {
        let mut random = fastrand::Rng::with_seed(7);
        // Rates whose interval is a whole number of nanoseconds.
        for (events, period) in [(1, 1000), (10, 1000), (500, 1000), (4, 60_000), (1, 3_600_000)] {
            let rate = RateCounter::default();
            let limit = Rate::new(events, Duration::from_millis(period));
            let mut now = 1_000_000;
            let events = f64::from(events);
            let mut bucket = Bucket { events, tokens: events, period: period as f64, at: now };
            let (mut admitted, start) = (0_u32, now);
            for step in 0..5000 {
                now += random.u64(0..=2 * period / (events as u64 + 1));
                let expected = bucket.admit(now);
                assert_eq!(rate.admit(limit, Millis(now)), expected, "{events} in {period} ms, step {step}");
                admitted += u32::from(expected);
            }
            let most = events + (now - start) as f64 / period as f64 * events;
            assert!(f64::from(admitted) <= most + 1e-6 && admitted > 100, "{admitted} of at most {most}");
        }
    }

    #[test]
    fn a_burst_is_as_large_as_the_period_allows() {
        let (rate, limit) = (RateCounter::default(), Rate::new(5, Duration::from_secs(1)));
        let admitted = |now| (0..20).filter(|_| rate.admit(limit, Millis(now))).count();
        assert_eq!([admitted(0), admitted(199), admitted(200), admitted(600), admitted(60_000)], [5, 0, 1, 2, 5]);
    }

    /// Invariant: a rate that a reload has changed holds from then on. Mechanism: what is left to pay back is a time, which the
    /// former rate may have put an hour ahead. Symptom: a route admits no streams for an hour after its rate was raised.
    #[test]
    fn a_changed_rate_holds_at_once() {
        let rate = RateCounter::default();
        let admitted = |limit, now| (0..20).filter(|_| rate.admit(limit, Millis(now))).count();
        let [slow, fast] = [3600, 1].map(|seconds| Rate::new(10, Duration::from_secs(seconds)));
        assert_eq!(admitted(slow, 0), 10);
        assert_eq!([admitted(fast, 0), admitted(fast, 500), admitted(fast, 5000)], [1, 5, 10]);
        assert_eq!([admitted(slow, 5001), admitted(slow, 5900)], [9, 0]);
    }

    /// Invariant: no value of the configuration or the clock panics or wraps.
    #[test]
    fn extremes_saturate() {
        for (events, period) in [(0, Duration::ZERO), (u32::MAX, Duration::from_millis(1)), (1, Duration::MAX)] {
            let limit = Rate::new(events, period);
            for now in [0, 1, u64::MAX] {
                let paid_back_at = limit.admit(u64::MAX - 1, Millis(now)).unwrap_or_default();
                assert!(is_paid_back(paid_back_at, Millis(u64::MAX)));
                assert!(limit.admit(0, Millis(now)).is_some(), "the first one is admitted");
            }
        }
    }
}
