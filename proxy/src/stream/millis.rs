//! Times on a clock that the caller owns. A deadline is the time at which it expires.

use std::time::Duration;

/// A time, in milliseconds since an epoch that the caller chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// Beyond every clock: a deadline that is not set.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// This time plus `by`, to the millisecond; saturates.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time less `by`, to the millisecond; saturates.
    pub(super) fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The deadline `limit` from this time; not set where there is no limit.
    pub(super) fn within(self, limit: Option<Duration>) -> Self {
        limit.map_or(Self::NEVER, |limit| self.after(limit))
    }

    /// The time of a deadline, if it is set.
    pub(super) fn if_set(self) -> Option<Self> {
        (self != Self::NEVER).then_some(self)
    }

    /// Rounds this time up for a timer set at `now`: by at most 3 % of the delay and at most 128 ms, to a grid that all
    /// streams share. Deadlines of thousands of streams that are close together then expire together, and a thread
    /// wakes a few times a second instead of thousands of times.
    #[must_use]
    pub fn coarse(self, now: Self) -> Self {
        let ahead = self.0.saturating_sub(now.0);
        // A power of two, so that a coarser grid is a subset of a finer one.
        let grid = 1_u64 << (ahead / 32).clamp(1, 128).ilog2();
        Self(self.0.checked_next_multiple_of(grid).unwrap_or(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_timers_are_a_little_late_and_never_early() {
        let now = Millis(1_000_003);
        for ahead in [0, 1, 31, 64, 100, 1_000, 4_999, 15_000, 300_000, u64::MAX / 2] {
            let (due, timer) = (Millis(now.0 + ahead), Millis(now.0 + ahead).coarse(now));
            let late = timer.0 - due.0;
            assert!(late <= (ahead / 32).min(127), "{ahead}: {late}");
        }
        let timers = |range: std::ops::Range<u64>| -> std::collections::BTreeSet<u64> {
            range.map(|ahead| Millis(now.0 + 15_000 + ahead).coarse(now).0).collect()
        };
        assert!(timers(0..1000).len() <= 9, "a second's deadlines share a few times");
        assert_eq!(Millis::NEVER.coarse(now), Millis::NEVER);
    }

    #[test]
    fn no_limit_means_no_deadline() {
        assert_eq!(Millis(5).within(None).if_set(), None);
        assert_eq!(Millis(5).within(Some(Duration::from_millis(7))).if_set(), Some(Millis(12)));
        assert_eq!(Millis(5).after(Duration::MAX), Millis::NEVER);
    }
}
