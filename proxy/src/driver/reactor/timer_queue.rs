//! When to look at which place of a table.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::stream::Millis;

/// A queue of moments and slots. Entries are not taken back: whoever takes one out asks whether it still holds.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    /// The moment in the upper bits, the slot in the lower: eight bytes an entry, and each stream has one or two.
    entries: BinaryHeap<Reverse<u64>>,
}

impl TimerQueue {
    /// Sixteen million slots, and moments up to 34 years after the process started.
    const SLOT_BITS: u32 = 24;

    /// Puts a slot down for a moment. One past the last that can be told is never.
    pub(super) fn add(&mut self, at: Millis, slot: usize) {
        if at.0 >> (u64::BITS - Self::SLOT_BITS) == 0 && slot >> Self::SLOT_BITS == 0 {
            self.entries.push(Reverse(at.0 << Self::SLOT_BITS | slot as u64));
        }
    }

    /// The first moment for which a slot is put down.
    pub(super) fn next(&self) -> Option<Millis> {
        self.entries.peek().map(|Reverse(entry)| Millis(entry >> Self::SLOT_BITS))
    }

    /// Takes out the first entry, if its moment has come.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<(Millis, usize)> {
        self.next().filter(|at| *at <= now)?;
        let Reverse(entry) = self.entries.pop()?;
        let slot = entry & ((1 << Self::SLOT_BITS) - 1);
        Some((Millis(entry >> Self::SLOT_BITS), slot as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_the_order_of_their_moments() {
        let mut timetable = TimerQueue::default();
        for (at, slot) in [(7, 3), (5, 16_777_215), (9, 0), (5, 1)] {
            timetable.add(Millis(at), slot);
        }
        timetable.add(Millis(u64::MAX), 4);
        assert_eq!(timetable.next(), Some(Millis(5)));
        let mut due = Vec::new();
        while let Some((at, slot)) = timetable.take_due(Millis(8)) {
            due.push((at.0, slot));
        }
        assert_eq!(due, [(5, 1), (5, 16_777_215), (7, 3)]);
        assert_eq!(timetable.next(), Some(Millis(9)));
    }
}
