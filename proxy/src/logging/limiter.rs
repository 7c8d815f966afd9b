//! Limits the rate of log lines for each cause. Pure: the caller passes the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Limit on causes that are tracked separately. All others share one entry.
const CAUSES: usize = 512;

/// What causes a line: its location in the source, and the fields that distinguish causes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Cause {
    pub(super) file: &'static str,
    pub(super) line: u32,
    pub(super) fields: String,
}

/// Admits the first line of each cause in an interval. At the end of the interval, returns the last suppressed line
/// with the count of the others.
#[derive(Debug)]
pub(super) struct Limiter {
    interval: Duration,
    causes: HashMap<Cause, Interval>,
}

#[derive(Debug)]
struct Interval {
    until: Instant,
    suppressed: u64,
    last: String,
}

impl Limiter {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, causes: HashMap::new() }
    }

    /// Returns the line if it is to be logged now, and how many lines of its cause were suppressed before it.
    pub(super) fn admit(&mut self, cause: Cause, now: Instant, line: String) -> Option<(String, u64)> {
        let is_known = self.causes.contains_key(&cause);
        let cause = if is_known || self.causes.len() < CAUSES { cause } else { Cause::default() };
        let until = now + self.interval;
        match self.causes.get_mut(&cause) {
            None => {
                self.causes.insert(cause, Interval { until, suppressed: 0, last: String::new() });
                Some((line, 0))
            }
            Some(interval) if interval.until <= now => {
                let suppressed = std::mem::take(&mut interval.suppressed);
                (interval.until, interval.last) = (until, String::new());
                Some((line, suppressed))
            }
            Some(interval) => {
                interval.suppressed += 1;
                interval.last = line;
                None
            }
        }
    }

    /// The last suppressed line of each cause whose interval has ended, and how many others were suppressed.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        let until = now + self.interval;
        self.causes.retain(|_, interval| {
            if interval.until > now {
                return true;
            }
            if interval.suppressed == 0 {
                return false;
            }
            let suppressed = std::mem::take(&mut interval.suppressed);
            lines.push((std::mem::take(&mut interval.last), suppressed - 1));
            interval.until = until;
            true
        });
        lines
    }

    /// When to call [`Limiter::ended`] next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.causes.values().map(|interval| interval.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn cause(fields: &str) -> Cause {
        Cause { file: "a.rs", line: 1, fields: fields.to_owned() }
    }

    #[test]
    fn one_line_of_each_cause_in_an_interval_and_a_count_of_the_others() {
        let (mut limiter, start) = (Limiter::new(INTERVAL), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let line = |text: &str, suppressed| Some((text.to_owned(), suppressed));
        assert_eq!(limiter.next(), None);
        assert_eq!(limiter.admit(cause("a"), at(0), "a0".to_owned()), line("a0", 0));
        for flood in 1..1000 {
            assert_eq!(limiter.admit(cause("a"), at(flood), format!("a{flood}")), None);
        }
        assert_eq!(limiter.admit(cause("b"), at(1000), "b0".to_owned()), line("b0", 0), "another cause");
        assert_eq!(limiter.next(), Some(at(10_000)));
        assert!(limiter.ended(at(9_999)).is_empty());
        assert_eq!(limiter.ended(at(10_000)), [("a999".to_owned(), 998)]);
        // That line has started the next interval.
        assert_eq!(limiter.admit(cause("a"), at(10_001), "a1000".to_owned()), None);
        // `ended` was not called at the interval's end: the next line carries the count.
        assert_eq!(limiter.admit(cause("a"), at(20_001), "a1001".to_owned()), line("a1001", 1));
        assert!(limiter.ended(at(40_000)).is_empty());
        assert_eq!(limiter.next(), None, "ended intervals are removed");
    }

    #[test]
    fn causes_beyond_the_table_share_one_limit() {
        let (mut limiter, now) = (Limiter::new(INTERVAL), Instant::now());
        let passed = (0..10_000).filter(|at| limiter.admit(cause(&at.to_string()), now, String::new()).is_some());
        assert_eq!(passed.count(), CAUSES + 1);
        assert!(limiter.causes.len() <= CAUSES + 1);
    }
}
