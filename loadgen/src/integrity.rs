//! Follows the sequence of one stream and tells what became of each event: fresh, lost, repeated, torn or damaged.

use serde::{Deserialize, Serialize};

use crate::stamp::{Reading, Stamp};

/// What went wrong, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integrity {
    /// Sequence numbers that never came.
    pub lost: u64,
    /// Sequence numbers that came again, or after a later one.
    pub duplicated: u64,
    /// Events that arrived cut: without their end, or without the `id` that stood in front.
    pub torn: u64,
    /// Events with damaged content, or of another stream.
    pub corrupted: u64,
}

/// What one event turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A stamped event, the next in its sequence (after `lost` missing ones).
    Fresh(Stamp, u64),
    /// One that was here before.
    Duplicated,
    /// Cut.
    Torn,
    /// Damaged.
    Corrupted,
    /// No event of the origin's: a heartbeat, or a backend that does not stamp.
    Foreign,
}

/// The state of one stream's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The stream's number, once an event has told it.
    stream: Option<u64>,
    next: u64,
}

impl Sequence {
    /// A sequence whose first event is the one after `already`.
    #[must_use]
    pub fn after(already: u64) -> Self {
        Self { stream: None, next: already + 1 }
    }

    /// Whether a stamped event has been seen.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        self.stream.is_some()
    }

    /// The number of the last event, or what the sequence began after.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Judges one event by its data and the last event id it leaves behind.
    pub fn judge(&mut self, reading: Reading, last_event_id: &[u8]) -> Verdict {
        let stamp = match reading {
            Reading::Whole(stamp) => stamp,
            Reading::Torn => return Verdict::Torn,
            Reading::Corrupted => return Verdict::Corrupted,
            Reading::Foreign => return Verdict::Foreign,
        };
        if *self.stream.get_or_insert(stamp.stream) != stamp.stream {
            return Verdict::Corrupted;
        }
        let is_id_its_own = std::str::from_utf8(last_event_id).ok().and_then(|id| id.parse().ok()) == Some(stamp.seq);
        if stamp.seq < self.next {
            return Verdict::Duplicated;
        }
        let lost = stamp.seq - self.next;
        self.next = stamp.seq + 1;
        if is_id_its_own { Verdict::Fresh(stamp, lost) } else { Verdict::Torn }
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

    fn whole(seq: u64) -> Reading {
        Reading::Whole(Stamp { stream: 5, seq, due_us: 0, sent_us: 0 })
    }

    fn judge_all(already: u64, seqs: &[u64]) -> Vec<Verdict> {
        let mut sequence = Sequence::after(already);
        seqs.iter().map(|seq| sequence.judge(whole(*seq), seq.to_string().as_bytes())).collect()
    }

    fn lost(verdicts: &[Verdict]) -> u64 {
        verdicts.iter().map(|verdict| if let Verdict::Fresh(_, lost) = verdict { *lost } else { 0 }).sum()
    }

    #[test]
    fn an_unbroken_sequence_is_fresh() {
        let verdicts = judge_all(0, &[1, 2, 3]);
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Fresh(_, 0))));
    }

    #[test]
    fn gaps_are_lost_also_at_the_start() {
        assert_eq!(lost(&judge_all(0, &[3, 4, 7])), 4);
        assert_eq!(lost(&judge_all(2, &[3, 4])), 0);
    }

    #[test]
    fn repeats_and_stragglers_are_duplicated() {
        let verdicts = judge_all(0, &[1, 1, 2, 4, 3]);
        assert_eq!(verdicts[1], Verdict::Duplicated);
        assert_eq!(verdicts[4], Verdict::Duplicated);
    }

    #[test]
    fn an_event_without_its_own_id_is_torn() {
        let mut sequence = Sequence::after(0);
        assert!(matches!(sequence.judge(whole(1), b"1"), Verdict::Fresh(..)));
        assert_eq!(sequence.judge(whole(2), b"1"), Verdict::Torn);
        assert!(matches!(sequence.judge(whole(3), b"3"), Verdict::Fresh(_, 0)));
    }

    #[test]
    fn an_event_of_another_stream_is_corruption() {
        let mut sequence = Sequence::after(0);
        sequence.judge(whole(1), b"1");
        let stray = Reading::Whole(Stamp { stream: 6, seq: 2, due_us: 0, sent_us: 0 });
        assert_eq!(sequence.judge(stray, b"2"), Verdict::Corrupted);
    }
}
