//! All of a stream's timers in one small table, asked two questions: when next, and what has expired.

use std::time::Duration;

/// A time, in milliseconds since an epoch that the caller chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// Beyond every clock.
    const NEVER: Self = Self(u64::MAX);

    /// This time plus `by`, to the millisecond; saturates.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
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

/// The timers of a stream, in order of priority: if several have expired, the first is handled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The client has read nothing for too long.
    Write,
    /// A stream that should end at an event boundary has not reached one in time.
    CloseLimit,
    /// The upstream has been silent for too long.
    Idle,
    /// The stream should end at the next event boundary.
    Close,
    /// A heartbeat is due.
    Heartbeat,
}

const KINDS: [Deadline; 5] =
    [Deadline::Write, Deadline::CloseLimit, Deadline::Idle, Deadline::Close, Deadline::Heartbeat];

/// The table.
#[derive(Clone, Debug)]
pub struct Deadlines {
    at: [Millis; KINDS.len()],
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { at: [Millis::NEVER; KINDS.len()] }
    }
}

impl Deadlines {
    /// Sets or moves a deadline.
    pub fn set(&mut self, kind: Deadline, at: Millis) {
        self.at[kind as usize] = at;
    }

    /// Sets a deadline `limit` from `now`, or clears it where there is no limit.
    pub fn set_within(&mut self, kind: Deadline, now: Millis, limit: Option<Duration>) {
        self.set(kind, limit.map_or(Millis::NEVER, |limit| now.after(limit)));
    }

    /// Sets a deadline, or moves it closer; never further away.
    pub fn set_earlier(&mut self, kind: Deadline, at: Millis) {
        let slot = &mut self.at[kind as usize];
        *slot = at.min(*slot);
    }

    /// Clears a deadline.
    pub fn clear(&mut self, kind: Deadline) {
        self.set(kind, Millis::NEVER);
    }

    /// Clears every deadline.
    pub fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Millis> {
        self.at.iter().copied().min().filter(|at| *at != Millis::NEVER)
    }

    /// Whether a deadline has expired at `now`, whatever else has.
    pub fn has_expired(&self, kind: Deadline, now: Millis) -> bool {
        self.at[kind as usize] <= now
    }

    /// The expired deadline of the highest priority at `now`.
    pub fn expired(&self, now: Millis) -> Option<Deadline> {
        KINDS.into_iter().find(|kind| self.has_expired(*kind, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_is_next_and_the_highest_priority_expires_first() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next(), None);
        deadlines.set(Deadline::Heartbeat, Millis(10));
        deadlines.set(Deadline::Idle, Millis(20));
        assert_eq!(deadlines.next(), Some(Millis(10)));
        assert_eq!(deadlines.expired(Millis(9)), None);
        assert_eq!(deadlines.expired(Millis(10)), Some(Deadline::Heartbeat));
        assert_eq!(deadlines.expired(Millis(20)), Some(Deadline::Idle));
        deadlines.clear(Deadline::Idle);
        assert_eq!(deadlines.expired(Millis(20)), Some(Deadline::Heartbeat));
    }

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
        let mut deadlines = Deadlines::default();
        deadlines.set_within(Deadline::Write, Millis(5), None);
        assert_eq!(deadlines.next(), None);
        deadlines.set_within(Deadline::Write, Millis(5), Some(Duration::from_millis(7)));
        assert_eq!(deadlines.next(), Some(Millis(12)));
        assert_eq!(Millis(5).after(Duration::MAX), Millis::NEVER);
    }
}
