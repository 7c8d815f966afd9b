//! Follows the sequence of one stream and says what became of each event: fresh, lost, repeated, torn or damaged.
//!
//! Each event counts as one fault at most. An event that arrived torn or damaged is not lost as well: it takes its place in
//! the sequence by its id, or, where the id is missing too, one of the numbers that are found missing afterwards.

use serde::{Deserialize, Serialize};

use crate::stamp::{Reading, Stamp};

/// What went wrong, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integrity {
    /// Sequence numbers that never came.
    pub lost: u64,
    /// Sequence numbers that came again, or after a later one.
    pub duplicated: u64,
    /// Events that arrived cut: without a part of their data, or without the `event` and `id` fields that stood in front.
    pub torn: u64,
    /// Events with damaged content, or of another stream.
    pub corrupted: u64,
}

/// What one event turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A stamped event with all of its fields.
    Fresh(Stamp),
    /// One that was here before.
    Duplicated,
    /// Cut.
    Torn,
    /// A further part of an event that has been counted as torn.
    TornRest,
    /// Damaged.
    Corrupted,
    /// No event of the origin's: a heartbeat, or a backend that does not stamp.
    Foreign,
}

/// The fields that stand in one block of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// The `event` field; empty when there is none.
    pub name: &'a [u8],
    /// The `id` field, if there is one.
    pub id: Option<&'a [u8]>,
    /// What the data turned out to be.
    pub reading: Reading,
}

/// The state of one stream's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The stream's number, once an event has named it.
    stream: Option<u64>,
    next: u64,
    /// Events since the last fresh one that arrived torn or damaged, and whose numbers are not known.
    unplaced: u64,
    /// Whether the last block was part of a torn event whose end has not come yet.
    is_torn_open: bool,
}

impl Sequence {
    /// A sequence whose first event is the one after `already`.
    #[must_use]
    pub fn after(already: u64) -> Self {
        Self { stream: None, next: already + 1, unplaced: 0, is_torn_open: false }
    }

    /// Whether a stamped event has been seen.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        self.stream.is_some()
    }

    /// How many events up to number `last` never came, in whatever state.
    #[must_use]
    pub fn missing_until(&self, last: u64) -> u64 {
        (last + 1).saturating_sub(self.next).saturating_sub(self.unplaced)
    }

    /// Judges one block; returns with the verdict how many events before it turn out to be lost.
    pub fn judge(&mut self, block: Block<'_>) -> (Verdict, u64) {
        let id = block.id.map(|id| std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()));
        let was_torn_open = std::mem::take(&mut self.is_torn_open);
        match block.reading {
            Reading::Whole(stamp) => self.judge_stamp(stamp, id),
            Reading::Torn { has_start, has_end } => {
                self.is_torn_open = !has_end;
                if was_torn_open && !has_start {
                    return (Verdict::TornRest, 0);
                }
                self.place(id.flatten());
                (Verdict::Torn, 0)
            }
            // The checksum covers the name: without the name it cannot be right.
            Reading::Corrupted => {
                self.place(id.flatten());
                (if block.name.is_empty() { Verdict::Torn } else { Verdict::Corrupted }, 0)
            }
            // It may be a heartbeat that tears an event in two.
            Reading::Foreign => {
                self.is_torn_open = was_torn_open;
                (Verdict::Foreign, 0)
            }
        }
    }

    fn judge_stamp(&mut self, stamp: Stamp, id: Option<Option<u64>>) -> (Verdict, u64) {
        if *self.stream.get_or_insert(stamp.stream) != stamp.stream {
            return (Verdict::Corrupted, 0);
        }
        if stamp.seq < self.next {
            return (Verdict::Duplicated, 0);
        }
        let lost = self.missing_until(stamp.seq - 1);
        (self.next, self.unplaced) = (stamp.seq + 1, 0);
        let verdict = match id {
            Some(id) if id == Some(stamp.seq) => Verdict::Fresh(stamp),
            Some(_) => Verdict::Corrupted,
            None => Verdict::Torn,
        };
        (verdict, lost)
    }

    /// Gives an event that is torn or damaged its place in the sequence.
    fn place(&mut self, id: Option<u64>) {
        match id {
            Some(id) if id == self.next => self.next += 1,
            // A repetition, damaged.
            Some(id) if id < self.next => {}
            _ => self.unplaced += 1,
        }
    }
}

impl Integrity {
    /// Adds another count.
    pub fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.torn += other.torn;
        self.corrupted += other.corrupted;
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TORN_START: Reading = Reading::Torn { has_start: true, has_end: false };
    const TORN_MIDDLE: Reading = Reading::Torn { has_start: false, has_end: false };
    const TORN_END: Reading = Reading::Torn { has_start: false, has_end: true };

    fn whole(seq: u64) -> Reading {
        Reading::Whole(Stamp { stream: 5, seq, due_us: 0, sent_us: 0 })
    }

    /// A block as the origin writes it.
    fn event(seq: u64) -> (&'static str, Option<u64>, Reading) {
        ("message", Some(seq), whole(seq))
    }

    /// Counts lost, duplicated, torn and corrupted of all blocks, when `expected` events should have come.
    fn faults(blocks: &[(&str, Option<u64>, Reading)], expected: u64) -> [u64; 4] {
        let mut sequence = Sequence::after(0);
        let mut counts = [0; 4];
        for (name, id, reading) in blocks {
            let id = id.map(|id| id.to_string());
            let block = Block { name: name.as_bytes(), id: id.as_deref().map(str::as_bytes), reading: *reading };
            let (verdict, lost) = sequence.judge(block);
            counts[0] += lost;
            match verdict {
                Verdict::Duplicated => counts[1] += 1,
                Verdict::Torn => counts[2] += 1,
                Verdict::Corrupted => counts[3] += 1,
                Verdict::Fresh(_) | Verdict::TornRest | Verdict::Foreign => {}
            }
        }
        counts[0] += sequence.missing_until(expected);
        counts
    }

    #[test]
    fn each_fault_is_counted_once() {
        let stray = Reading::Whole(Stamp { stream: 6, seq: 2, due_us: 0, sent_us: 0 });
        let (bare, nameless) = (("", None, whole(2)), ("", Some(2), Reading::Corrupted));
        for (what, between, expected) in [
            ("nothing", vec![event(2)], [0, 0, 0, 0]),
            ("missing", vec![], [1, 0, 0, 0]),
            ("repeated", vec![event(2), event(2)], [0, 1, 0, 0]),
            ("an earlier one again", vec![event(2), event(1)], [0, 1, 0, 0]),
            ("heartbeat after the id: the data stand alone", vec![bare], [0, 0, 1, 0]),
            ("named heartbeat after the id", vec![("ping", Some(2), Reading::Foreign), bare], [0, 0, 1, 0]),
            ("heartbeat after the name", vec![nameless], [0, 0, 1, 0]),
            ("the name is damaged", vec![("messagf", Some(2), Reading::Corrupted)], [0, 0, 0, 1]),
            ("the id is damaged", vec![("message", Some(3), whole(2))], [0, 0, 0, 1]),
            (
                "heartbeat between data lines",
                vec![("message", Some(2), TORN_START), ("", None, TORN_END)],
                [0, 0, 1, 0],
            ),
            (
                "heartbeats between all data lines",
                vec![
                    ("message", Some(2), TORN_START),
                    ("ping", None, Reading::Foreign),
                    ("", None, TORN_MIDDLE),
                    ("", None, TORN_END),
                ],
                [0, 0, 1, 0],
            ),
            ("the start is missing", vec![("", None, TORN_END)], [0, 0, 1, 0]),
            ("the end is missing", vec![("message", Some(2), TORN_START)], [0, 0, 1, 0]),
            ("data damaged", vec![("message", Some(2), Reading::Corrupted)], [0, 0, 0, 1]),
            ("data damaged, no id", vec![("message", None, Reading::Corrupted)], [0, 0, 0, 1]),
            ("repeated, and damaged", vec![event(2), ("message", Some(2), Reading::Corrupted)], [0, 0, 0, 1]),
            ("another stream's event as well", vec![event(2), ("message", Some(2), stray)], [0, 0, 0, 1]),
        ] {
            let blocks = [vec![event(1)], between.clone(), vec![event(3)]].concat();
            assert_eq!(faults(&blocks, 3), expected, "{what}");
            if what != "missing" {
                let at_the_end = [vec![event(1)], between].concat();
                assert_eq!(faults(&at_the_end, 2), expected, "{what}, and nothing after it");
            }
        }
    }

    #[test]
    fn a_fault_hides_no_other_one() {
        // Each of the torn and damaged takes one number, and no more than that.
        let damaged = ("message", None, Reading::Corrupted);
        assert_eq!(faults(&[event(1), damaged, event(5)], 5), [2, 0, 0, 1]);
        assert_eq!(faults(&[event(1), damaged, event(3), event(5)], 5), [1, 0, 0, 1]);
        assert_eq!(faults(&[event(1), ("", None, whole(4)), event(5)], 5), [2, 0, 1, 0]);
        assert_eq!(faults(&[("message", Some(1), TORN_START), ("message", Some(2), TORN_START)], 3), [1, 0, 2, 0]);
        assert_eq!(faults(&[event(3), event(4), event(7)], 7), [4, 0, 0, 0]);
    }

    #[test]
    fn a_sequence_may_begin_after_events_that_the_client_has() {
        let mut sequence = Sequence::after(2);
        let block = Block { name: b"message", id: Some(b"3"), reading: whole(3) };
        assert!(matches!(sequence.judge(block), (Verdict::Fresh(_), 0)));
        assert_eq!(sequence.missing_until(5), 2);
    }
}
