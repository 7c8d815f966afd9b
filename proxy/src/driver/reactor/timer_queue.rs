//! When to check which slot of a table.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::stream::Millis;

/// A priority queue of times and slots. Entries are not removed early: the caller checks whether a due entry is stale.
/// Stale entries are collected in one pass once they are most of the queue.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    /// The time in the upper bits, the slot in the lower: eight bytes for each entry, and each stream has one or two.
    entries: BinaryHeap<Reverse<u64>>,
}

impl TimerQueue {
    /// Sixteen million slots, and times up to 34 years after the process started.
    const SLOT_BITS: u32 = 24;

    /// Adds a slot at a time. A time beyond the range counts as never.
    pub(super) fn add(&mut self, at: Millis, slot: usize) {
        if at.0 >> (u64::BITS - Self::SLOT_BITS) == 0 && slot >> Self::SLOT_BITS == 0 {
            self.entries.push(Reverse(at.0 << Self::SLOT_BITS | slot as u64));
        }
    }

    /// Whether most entries are stale, given that at most `slots` are valid. The caller then calls
    /// [`TimerQueue::retain`]; its cost is amortized over the additions.
    pub(super) fn is_overgrown(&self, slots: usize) -> bool {
        self.entries.len() > 2 * slots + Self::SLACK
    }

    /// Drops the entries for which `holds` is false, and duplicates.
    pub(super) fn retain(&mut self, mut holds: impl FnMut(Millis, usize) -> bool) {
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        entries.retain(|entry| {
            let (at, slot) = Self::parts(*entry);
            holds(at, slot)
        });
        entries.sort_unstable();
        entries.dedup();
        entries.shrink_to(2 * entries.len());
        self.entries = entries.into();
    }

    /// Few entries are not worth collecting.
    const SLACK: usize = 1024;

    fn parts(Reverse(entry): Reverse<u64>) -> (Millis, usize) {
        let slot = entry & ((1 << Self::SLOT_BITS) - 1);
        (Millis(entry >> Self::SLOT_BITS), slot as usize)
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Millis> {
        self.entries.peek().map(|Reverse(entry)| Millis(entry >> Self::SLOT_BITS))
    }

    /// Removes and returns the first entry, if it is due.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<(Millis, usize)> {
        self.next().filter(|at| *at <= now)?;
        self.entries.pop().map(Self::parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_in_order_of_time() {
        let mut queue = TimerQueue::default();
        for (at, slot) in [(7, 3), (5, 16_777_215), (9, 0), (5, 1)] {
            queue.add(Millis(at), slot);
        }
        queue.add(Millis(u64::MAX), 4);
        assert_eq!(queue.next(), Some(Millis(5)));
        let mut due = Vec::new();
        while let Some((at, slot)) = queue.take_due(Millis(8)) {
            due.push((at.0, slot));
        }
        assert_eq!(due, [(5, 1), (5, 16_777_215), (7, 3)]);
        assert_eq!(queue.next(), Some(Millis(9)));
    }

    /// Invariant: the queue is bounded by the slots, whatever they have waited for. Mechanism: entries were collected when due.
    /// Symptom: connections that come and go, each with a deadline of minutes, took memory for as many minutes.
    #[test]
    fn stale_deadlines_are_collected_long_before_they_are_due() {
        const SLOTS: usize = 500;
        let mut queue = TimerQueue::default();
        let mut timer_at = vec![Millis(u64::MAX); SLOTS];
        let (mut largest, mut looked_at) = (0, 0);
        for added in 0..100_000_u64 {
            let slot = (added as usize * 7919) % SLOTS;
            // An hour ahead, and a different time for most: the previous entry becomes stale. Some are equal.
            timer_at[slot] = Millis(3_600_000 + added / 3);
            queue.add(timer_at[slot], slot);
            if queue.is_overgrown(SLOTS) {
                queue.retain(|at, slot| {
                    looked_at += 1;
                    timer_at[slot] == at
                });
            }
            largest = largest.max(queue.entries.len());
        }
        assert!(largest <= 2 * SLOTS + TimerQueue::SLACK + 1, "{largest} entries for {SLOTS} slots");
        assert!(looked_at < 200_000, "{looked_at} looks for 100,000 additions");
        let mut left = Vec::new();
        while let Some((at, slot)) = queue.take_due(Millis(u64::MAX)) {
            if timer_at[slot] == at {
                left.push(slot);
                timer_at[slot] = Millis(u64::MAX);
            }
        }
        left.sort_unstable();
        assert_eq!(left, (0..SLOTS).collect::<Vec<_>>(), "none that holds is lost");
    }
}
