//! All of a stream's timers in one small table, asked two questions: when next, and what has expired.

use std::time::Duration;

/// A moment, in milliseconds since an epoch that the caller chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// Further than any clock reaches.
    const NEVER: Self = Self(u64::MAX);

    /// This moment moved by `by`, to the millisecond, never past the end of time.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What a stream can be waiting for. Where several have expired at once, the first in this order is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The client has taken nothing for too long.
    Write,
    /// A stream that was to end at an event boundary has not reached one.
    CloseLimit,
    /// The upstream has been silent for too long.
    Idle,
    /// The stream is to end at the next event boundary.
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

    /// Whether a deadline is set.
    pub fn is_set(&self, kind: Deadline) -> bool {
        self.at[kind as usize] != Millis::NEVER
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Millis> {
        self.at.iter().copied().min().filter(|at| *at != Millis::NEVER)
    }

    /// The weightiest deadline that has come by `now`.
    pub fn expired(&self, now: Millis) -> Option<Deadline> {
        KINDS.into_iter().find(|kind| self.at[*kind as usize] <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_next_and_the_weightiest_expires_first() {
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
    fn no_limit_means_no_deadline() {
        let mut deadlines = Deadlines::default();
        deadlines.set_within(Deadline::Write, Millis(5), None);
        assert!(!deadlines.is_set(Deadline::Write));
        deadlines.set_within(Deadline::Write, Millis(5), Some(Duration::from_millis(7)));
        assert_eq!(deadlines.next(), Some(Millis(12)));
        assert_eq!(Millis(5).after(Duration::MAX), Millis::NEVER);
    }
}
