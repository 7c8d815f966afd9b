//! All of an exchange's timers in one small table, asked two questions: when next, and what has expired.

use std::time::Duration;

use crate::stream::Millis;

/// The timers of an exchange, in order of priority: if several have expired, the first is the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The client reads an interim response.
    Write,
    /// A connection is being made.
    Connect,
    /// The client sends the next part of its request's body.
    Body,
    /// The upstream reads the request, or responds.
    FirstByte,
}

const KINDS: [Clock; 4] = [Clock::Write, Clock::Connect, Clock::Body, Clock::FirstByte];

/// Stands for a clock that is not running: beyond every time.
const NEVER: Millis = Millis(u64::MAX);

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    due: [Millis; KINDS.len()],
}

impl Default for Clocks {
    fn default() -> Self {
        Self { due: [NEVER; KINDS.len()] }
    }
}

impl Clocks {
    /// Starts a clock at `now`, or stops it where there is no limit.
    pub(super) fn start(&mut self, clock: Clock, now: Millis, limit: Option<Duration>) {
        self.due[clock as usize] = limit.map_or(NEVER, |limit| now.after(limit));
    }

    pub(super) fn stop(&mut self, clock: Clock) {
        self.due[clock as usize] = NEVER;
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Millis> {
        self.due.iter().copied().min().filter(|due| *due != NEVER)
    }

    /// The expired clock of the highest priority at `now`.
    pub(super) fn expired(&self, now: Millis) -> Option<Clock> {
        KINDS.into_iter().find(|clock| self.due[*clock as usize] <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_is_next_and_the_highest_priority_expires_first() {
        let mut clocks = Clocks::default();
        assert_eq!((clocks.next(), clocks.expired(Millis(u64::MAX - 1))), (None, None));
        clocks.start(Clock::FirstByte, Millis(0), Some(Duration::from_millis(10)));
        clocks.start(Clock::Write, Millis(0), Some(Duration::from_millis(20)));
        assert_eq!((clocks.next(), clocks.expired(Millis(9))), (Some(Millis(10)), None));
        assert_eq!(clocks.expired(Millis(10)), Some(Clock::FirstByte));
        assert_eq!(clocks.expired(Millis(20)), Some(Clock::Write));
        clocks.stop(Clock::Write);
        clocks.start(Clock::FirstByte, Millis(20), None);
        assert_eq!((clocks.next(), clocks.expired(Millis(20))), (None, None));
    }
}
