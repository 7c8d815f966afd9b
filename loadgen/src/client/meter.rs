//! Turns what the parser finds into measurements. Reads no clock: the time of arrival is an argument.

use crate::integrity::{Block, Sequence, Verdict};
use crate::record::Record;
use crate::sse::parser::Item;
use crate::stamp;

/// Slack before a stream counts as stalled, on top of one interval.
const STALL_SLACK_US: u64 = 1_000_000;

/// What is remembered of one stream between two events.
#[derive(Debug, Clone, Copy)]
pub struct StreamMeter {
    sequence: Sequence,
    first: u64,
    /// When the ramp had the stream due, Unix µs.
    stream_due_us: u64,
    /// When its request had been sent, Unix µs.
    request_sent_us: u64,
    last_event_us: u64,
    last_due_us: u64,
    interval_us: u64,
    events: u64,
    /// Events without a stamp before the first one with a stamp, which decides what they are.
    unstamped: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NeverOpened,
    Open,
    Ended,
}

impl StreamMeter {
    /// A stream that continues after event `already` (0 for a new one), and that the ramp has due at `stream_due_us`.
    #[must_use]
    pub fn after(already: u64, stream_due_us: u64) -> Self {
        Self {
            sequence: Sequence::after(already),
            first: already,
            stream_due_us,
            request_sent_us: 0,
            last_event_us: 0,
            last_due_us: 0,
            interval_us: 0,
            events: 0,
            unstamped: 0,
            state: State::NeverOpened,
        }
    }

    /// The head has come, to a request that had been sent at `asked_us`.
    pub fn opened(&mut self, request_sent_us: u64) {
        self.state = State::Open;
        self.request_sent_us = request_sent_us;
    }

    /// The stream is over.
    pub fn ended(&mut self) {
        self.state = State::Ended;
    }

    /// Counts one item that was read at `now_us`.
    pub fn count(&mut self, item: Item<'_>, now_us: u64, record: &mut Record) {
        match item {
            Item::Comment(_) => record.counts.heartbeats += 1,
            Item::Retry(_) => record.counts.retries += 1,
            Item::Event { name, data, last_event_id, has_own_id } => {
                let was_stamped = self.sequence.is_stamped();
                let id = has_own_id.then_some(last_event_id);
                let (verdict, lost) = self.sequence.judge(Block { name, id, reading: stamp::read(name, data) });
                record.integrity.lost += lost;
                match verdict {
                    Verdict::Fresh(stamp) => self.count_stamp(stamp, now_us, record),
                    Verdict::Duplicated => record.integrity.duplicated += 1,
                    Verdict::Torn => record.integrity.torn += 1,
                    Verdict::TornRest => {}
                    Verdict::Corrupted => record.integrity.corrupted += 1,
                    Verdict::Foreign if self.sequence.is_stamped() => record.counts.heartbeats += 1,
                    Verdict::Foreign => {
                        self.unstamped += 1;
                        self.count_event(now_us, record);
                    }
                }
                if !was_stamped && self.sequence.is_stamped() {
                    // The stream is the origin's after all: what came before without a stamp were heartbeats.
                    record.counts.events -= self.unstamped;
                    record.counts.heartbeats += self.unstamped;
                    self.events -= self.unstamped;
                    self.unstamped = 0;
                }
            }
        }
    }

    /// Counts what can only be known once the measuring is over; `expected` is how many events the stream should have had.
    pub fn close(&self, now_us: u64, expected: Option<u64>, record: &mut Record) {
        if self.state == State::NeverOpened {
            return;
        }
        record.events_per_stream.record(self.events);
        if let Some(expected) = expected {
            record.integrity.lost += self.sequence.missing_until(self.first + expected);
        }
        let overdue_us = now_us.saturating_sub(self.last_due_us);
        if self.state == State::Open
            && self.interval_us > 0
            && expected.is_none()
            && overdue_us > 2 * self.interval_us + STALL_SLACK_US
        {
            record.stalled += 1;
        }
    }

    fn count_stamp(&mut self, stamp: stamp::Stamp, now_us: u64, record: &mut Record) {
        record.counts.stamped += 1;
        record.latency_us.record_between(stamp.due_us, now_us);
        record.transit_us.record_between(stamp.sent_us, now_us);
        record.origin_late_us.record_between(stamp.due_us, stamp.sent_us);
        if self.last_due_us > 0 {
            self.interval_us = self.interval_us.max(stamp.due_us.saturating_sub(self.last_due_us));
        }
        self.last_due_us = stamp.due_us;
        self.count_event(now_us, record);
    }

    fn count_event(&mut self, now_us: u64, record: &mut Record) {
        self.events += 1;
        record.counts.events += 1;
        if self.last_event_us > 0 {
            record.gap_us.record_between(self.last_event_us, now_us);
        } else {
            record.first_event_us.record_between(self.request_sent_us, now_us);
            record.first_event_from_due_us.record_between(self.stream_due_us, now_us);
        }
        self.last_event_us = now_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    fn stamped(seq: u64) -> Vec<u8> {
        let mut data = Vec::new();
        Stamp { stream: 1, seq, due_us: seq * 1000, sent_us: seq * 1000 + 10 }.write(b"message", 100, 1, &mut data);
        data
    }

    fn feed(meter: &mut StreamMeter, record: &mut Record, data: &[u8], id: &str, now_us: u64) {
        let (name, has_own_id) = if id.is_empty() { (&b""[..], false) } else { (&b"message"[..], true) };
        meter.count(Item::Event { name, data, last_event_id: id.as_bytes(), has_own_id }, now_us, record);
    }

    #[test]
    fn both_latencies_and_the_origins_lateness_are_recorded() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        feed(&mut meter, &mut record, &stamped(1), "1", 1100);
        assert_eq!(record.latency_us.max(), Some(100));
        assert_eq!(record.transit_us.max(), Some(90));
        assert_eq!(record.origin_late_us.max(), Some(10));
    }

    #[test]
    fn unstamped_events_are_heartbeats_as_soon_as_a_stamp_shows_up() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        feed(&mut meter, &mut record, b"ping", "", 500);
        assert_eq!((record.counts.events, record.counts.heartbeats), (1, 0));
        feed(&mut meter, &mut record, &stamped(1), "1", 1100);
        feed(&mut meter, &mut record, b"ping", "", 1200);
        meter.count(Item::Comment(b""), 1300, &mut record);
        assert_eq!((record.counts.events, record.counts.heartbeats), (1, 3));
    }

    #[test]
    fn a_backend_without_stamps_has_events_and_gaps() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        for now_us in [1000, 3000, 5000] {
            feed(&mut meter, &mut record, b"{\"price\":1}", "", now_us);
        }
        assert_eq!((record.counts.events, record.counts.stamped, record.gap_us.max()), (3, 0, Some(2000)));
        assert!(record.integrity.is_clean());
    }

    #[test]
    fn the_first_event_counts_from_the_request_and_from_when_the_stream_was_due() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        meter.opened(300);
        feed(&mut meter, &mut record, &stamped(1), "1", 1100);
        feed(&mut meter, &mut record, &stamped(2), "2", 2100);
        assert_eq!((record.first_event_us.max(), record.first_event_us.histogram().len()), (Some(800), 1));
        assert_eq!(
            (record.first_event_from_due_us.max(), record.first_event_from_due_us.histogram().len()),
            (Some(900), 1)
        );
    }

    #[test]
    fn a_missing_tail_is_lost_when_the_number_is_known() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        meter.opened(300);
        feed(&mut meter, &mut record, &stamped(1), "1", 1100);
        feed(&mut meter, &mut record, &stamped(3), "3", 3100);
        meter.close(9000, Some(5), &mut record);
        assert_eq!(record.integrity.lost, 1 + 2);
    }

    #[test]
    fn a_stream_whose_next_event_is_long_overdue_is_stalled() {
        let (mut meter, mut record) = (StreamMeter::after(0, 200), Record::default());
        meter.opened(300);
        feed(&mut meter, &mut record, &stamped(1), "1", 1100);
        feed(&mut meter, &mut record, &stamped(2), "2", 2100);
        meter.close(3100, None, &mut record);
        assert_eq!(record.stalled, 0);
        meter.close(2_100_000, None, &mut record);
        assert_eq!(record.stalled, 1);
    }
}
