//! Limits how often the same thing is logged. Pure: the caller brings the clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Causes that are told apart at the same time. Past these, all others are one cause.
const CAUSES: usize = 512;

/// What a line is about: where in the source it comes from, and the fields that tell its causes apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Cause {
    pub(super) file: &'static str,
    pub(super) line: u32,
    pub(super) fields: String,
}

/// Lets one line of each cause through in an interval, at its beginning. At its end the last of the others follows, with the
/// count of those that never show.
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

    /// Takes in a line. Returns what is to be logged now: the line, and how many went before it unseen.
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

    /// The lines whose interval has ended: the last of each cause, and how many others of it were suppressed.
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

    /// When [`Limiter::ended`] has something to do next.
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
        // The next interval has begun with that line.
        assert_eq!(limiter.admit(cause("a"), at(10_001), "a1000".to_owned()), None);
        // Nobody asked at the interval's end: the next line brings the count.
        assert_eq!(limiter.admit(cause("a"), at(20_001), "a1001".to_owned()), line("a1001", 1));
        assert!(limiter.ended(at(40_000)).is_empty());
        assert_eq!(limiter.next(), None, "nothing is kept of what is over");
    }

    #[test]
    fn causes_beyond_the_table_share_one_limit() {
        let (mut limiter, now) = (Limiter::new(INTERVAL), Instant::now());
        let passed = (0..10_000).filter(|at| limiter.admit(cause(&at.to_string()), now, String::new()).is_some());
        assert_eq!(passed.count(), CAUSES + 1);
        assert!(limiter.causes.len() <= CAUSES + 1);
    }
}
