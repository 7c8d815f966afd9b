//! Events as bytes: the record with its line ends, and nothing of HTTP.

use super::spec::{Eol, StreamSpec};
use crate::stamp::Stamp;

/// Appends one event to `out`.
pub(super) fn write_event(spec: &StreamSpec, stamp: Stamp, out: &mut Vec<u8>) {
    let mut ends = LineEnds { eol: spec.eol, turn: stamp.seq };
    // Always: an event that a proxy tears apart shows by the fields that no longer stand together.
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(spec.name.as_bytes());
    ends.end_line(out);
    out.extend_from_slice(format!("id: {}", stamp.seq).as_bytes());
    ends.end_line(out);

    let mut text = Vec::with_capacity(spec.size + 128);
    stamp.write(spec.name.as_bytes(), spec.size, spec.lines, &mut text);
    for line in text.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        ends.end_line(out);
    }
    ends.end_record(out);
}

/// Appends a comment line, ended in the stream's way.
pub(super) fn write_comment(spec: &StreamSpec, text: &str, out: &mut Vec<u8>) {
    let mut ends = LineEnds { eol: spec.eol, turn: 0 };
    out.push(b':');
    out.extend_from_slice(text.as_bytes());
    ends.end_line(out);
}

/// Appends a reconnection time, a record of its own.
pub(super) fn write_retry(spec: &StreamSpec, retry_ms: u64, out: &mut Vec<u8>) {
    let mut ends = LineEnds { eol: spec.eol, turn: 0 };
    out.extend_from_slice(format!("retry: {retry_ms}").as_bytes());
    ends.end_line(out);
    ends.end_record(out);
}

/// Length of all events after the first `already` of a finite stream. The digits of times do not change before the year 2286.
pub(super) fn content_bytes(spec: &StreamSpec, stream: u64, already: u64, now_us: u64) -> u64 {
    let mut scratch = Vec::new();
    let events = (already + 1..=spec.count.unwrap_or(0)).map(|seq| {
        scratch.clear();
        write_event(spec, Stamp { stream, seq, due_us: now_us, sent_us: now_us }, &mut scratch);
        scratch.len() as u64
    });
    events.sum()
}

/// Line ends in turn. Deterministic, so that lengths are known in advance.
struct LineEnds {
    eol: Eol,
    turn: u64,
}

impl LineEnds {
    fn next(&mut self) -> &'static [u8] {
        let turn = self.turn;
        self.turn += 1;
        match self.eol {
            Eol::Lf => b"\n",
            Eol::Cr => b"\r",
            Eol::Crlf => b"\r\n",
            Eol::Mixed => [&b"\n"[..], b"\r", b"\r\n"][(turn % 3) as usize],
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.next());
    }

    /// The blank line. After a CR it must not be a LF: the two would be one line end.
    fn end_record(&mut self, out: &mut Vec<u8>) {
        let end = self.next();
        let merges = out.last() == Some(&b'\r') && end == b"\n";
        out.extend_from_slice(if merges { b"\r" } else { end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::parser::{Item, Parser};
    use crate::stamp::{self, Reading};

    #[test]
    fn every_line_end_and_line_count_gives_events_a_client_reads_whole() {
        for eol in [Eol::Lf, Eol::Cr, Eol::Crlf, Eol::Mixed] {
            for lines in [1, 2, 3, 5] {
                let spec = StreamSpec { eol, lines, name: "tick".into(), ..StreamSpec::default() };
                let mut bytes = Vec::new();
                for seq in 1..=10 {
                    write_event(&spec, Stamp { stream: 3, seq, due_us: 1, sent_us: 2 }, &mut bytes);
                    write_comment(&spec, " between", &mut bytes);
                }
                let mut seen = 0;
                Parser::default().feed(&bytes, |item| {
                    if let Item::Event { name, data, last_event_id, has_own_id } = item {
                        seen += 1;
                        assert_eq!((name, has_own_id), (&b"tick"[..], true));
                        assert_eq!(last_event_id, seen.to_string().as_bytes());
                        assert!(
                            matches!(stamp::read(name, data), Reading::Whole(stamp) if stamp.seq == seen),
                            "{eol:?} {lines}"
                        );
                    }
                });
                assert_eq!(seen, 10, "{eol:?} {lines}");
            }
        }
    }

    #[test]
    fn content_length_counts_what_is_written() {
        let spec = StreamSpec { eol: Eol::Mixed, count: Some(120), lines: 3, ..StreamSpec::default() };
        let now_us = 1_795_000_000_000_000;
        let mut bytes = Vec::new();
        for seq in 6..=120 {
            write_event(&spec, Stamp { stream: 9, seq, due_us: now_us, sent_us: now_us + 999 }, &mut bytes);
        }
        assert_eq!(content_bytes(&spec, 9, 5, now_us), bytes.len() as u64);
    }
}
