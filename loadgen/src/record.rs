//! What one worker measured. Each worker has its own record; records are merged without loss at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::integrity::Integrity;

/// Everything measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From `connect` to a connection that requests can be sent on: with TLS after its handshake, with HTTP/2 after the
    /// server's settings.
    pub connect_us: Distribution,
    /// The same from when the ramp had the connection's first stream due: with what it waited for its turn.
    #[serde(default)]
    pub connect_from_due_us: Distribution,
    /// The TLS handshake's part of connecting.
    #[serde(default)]
    pub tls_handshake_us: Distribution,
    /// From the request sent to the first byte of the answer; with HTTP/2 to its final head.
    pub ttfb_us: Distribution,
    /// To the same moment from when the ramp had the stream due.
    #[serde(default)]
    pub ttfb_from_due_us: Distribution,
    /// From the request sent to the first event.
    #[serde(default)]
    pub first_event_us: Distribution,
    /// To the first event from when the ramp had the stream due.
    #[serde(default)]
    pub first_event_from_due_us: Distribution,
    /// From when an event was due until it was read.
    pub latency_us: Distribution,
    /// From when an event was sent by the origin until it was read.
    pub transit_us: Distribution,
    /// From when an event was due until the origin sent it.
    pub origin_late_us: Distribution,
    /// Between two events of one stream.
    pub gap_us: Distribution,
    /// How late this worker's own timers fired.
    pub timer_late_us: Distribution,
    /// Counters.
    pub counts: Counts,
    /// What became of stamped events.
    pub integrity: Integrity,
    /// Streams that are no longer open, or never were, by reason.
    pub ends: BTreeMap<String, u64>,
    /// Events per stream over all streams, least and most; to find streams that got nothing.
    pub events_per_stream: Distribution,
    /// Streams open at the end whose next event was overdue by more than one interval and a second.
    pub stalled: u64,
}

/// Plain counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Streams begun.
    pub attempted: u64,
    /// Connections established; with HTTP/2 streams share them.
    pub connected: u64,
    /// Streams whose head was a 200 `text/event-stream`.
    pub streams: u64,
    /// Streams open now.
    pub open: u64,
    /// Events, heartbeats not included.
    pub events: u64,
    /// Events among them that carried a stamp.
    pub stamped: u64,
    /// Comment lines, and events without a stamp in streams whose other events carry one.
    pub heartbeats: u64,
    /// Body bytes, without transfer coding.
    pub bytes: u64,
    /// `retry` fields.
    pub retries: u64,
}

impl Record {
    /// Records the first byte of an answer that came at `now_us` to a stream that was due at `due_us`; `asked_us` is when its
    /// request had been sent, if that was before.
    pub fn first_byte(&mut self, due_us: u64, request_sent_us: Option<u64>, now_us: u64) {
        if let Some(request_sent_us) = request_sent_us {
            self.ttfb_us.record_between(request_sent_us, now_us);
        }
        self.ttfb_from_due_us.record_between(due_us, now_us);
    }

    /// Adds everything another worker measured.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.distributions_mut().into_iter().zip(other.distributions()) {
            mine.merge(theirs.1);
        }
        self.counts.merge(other.counts);
        self.integrity.merge(other.integrity);
        for (reason, count) in &other.ends {
            *self.ends.entry(reason.clone()).or_default() += count;
        }
        self.stalled += other.stalled;
    }

    /// All distributions with their names.
    #[must_use]
    pub fn distributions(&self) -> [(&'static str, &Distribution); 13] {
        [
            ("connect_us", &self.connect_us),
            ("connect_from_due_us", &self.connect_from_due_us),
            ("tls_handshake_us", &self.tls_handshake_us),
            ("ttfb_us", &self.ttfb_us),
            ("ttfb_from_due_us", &self.ttfb_from_due_us),
            ("first_event_us", &self.first_event_us),
            ("first_event_from_due_us", &self.first_event_from_due_us),
            ("latency_us", &self.latency_us),
            ("transit_us", &self.transit_us),
            ("origin_late_us", &self.origin_late_us),
            ("gap_us", &self.gap_us),
            ("timer_late_us", &self.timer_late_us),
            ("events_per_stream", &self.events_per_stream),
        ]
    }

    /// The distribution of this name, to put one in that was read from a file.
    pub fn distribution_mut(&mut self, name: &str) -> Option<&mut Distribution> {
        let at = self.distributions().iter().position(|(known, _)| *known == name)?;
        self.distributions_mut().into_iter().nth(at)
    }

    fn distributions_mut(&mut self) -> [&mut Distribution; 13] {
        [
            &mut self.connect_us,
            &mut self.connect_from_due_us,
            &mut self.tls_handshake_us,
            &mut self.ttfb_us,
            &mut self.ttfb_from_due_us,
            &mut self.first_event_us,
            &mut self.first_event_from_due_us,
            &mut self.latency_us,
            &mut self.transit_us,
            &mut self.origin_late_us,
            &mut self.gap_us,
            &mut self.timer_late_us,
            &mut self.events_per_stream,
        ]
    }
}

impl Counts {
    /// Adds another worker's counters.
    pub fn merge(&mut self, other: Self) {
        self.attempted += other.attempted;
        self.connected += other.connected;
        self.streams += other.streams;
        self.open += other.open;
        self.events += other.events;
        self.stamped += other.stamped;
        self.heartbeats += other.heartbeats;
        self.bytes += other.bytes;
        self.retries += other.retries;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(values: &[u64]) -> Record {
        let mut record = Record::default();
        for value in values {
            record.latency_us.record(*value);
        }
        record.counts.events = values.len() as u64;
        record.ends.insert("reset".to_owned(), 1);
        record
    }

    #[test]
    fn merging_equals_recording_in_one_place() {
        let (left, right) = (record(&[1, 50, 900_000]), record(&[7, 7, 123_456]));
        let mut merged = left.clone();
        merged.merge(&right);
        assert_eq!(merged.latency_us, record(&[1, 50, 900_000, 7, 7, 123_456]).latency_us);
        assert_eq!((merged.counts.events, merged.ends["reset"]), (6, 2));
    }

    #[test]
    fn a_distribution_is_found_by_the_name_that_it_is_reported_by() {
        let names: Vec<&str> = Record::default().distributions().iter().map(|(name, _)| *name).collect();
        for name in names {
            let mut record = Record::default();
            record.distribution_mut(name).expect("there").record(7);
            let filled = record.distributions().into_iter().filter(|(_, distribution)| distribution.max() == Some(7));
            assert_eq!(filled.map(|(name, _)| name).collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn a_record_survives_its_json() {
        let mut before = record(&[1, 2, 3_000_000]);
        before.latency_us.record_between(10, 5);
        let json = serde_json::to_string(&before).expect("serializable");
        let after: Record = serde_json::from_str(&json).expect("readable");
        assert_eq!(after, before);
    }
}
