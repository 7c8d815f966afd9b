//! A `text/event-stream` parser written from the WHATWG steps ("9.2.6 Interpreting an event stream"), fed with any cut of bytes.
//!
//! It works on bytes: a browser would decode UTF-8 first and put U+FFFD for what is invalid, the harness wants to see the
//! bytes that arrived. What an event means is for the caller.

use memchr::{memchr, memchr2};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What a stream consists of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// An event that a client would dispatch.
    Event {
        /// The `event` field, empty for the default (`message`).
        name: &'a [u8],
        /// The data lines joined by LF.
        data: &'a [u8],
        /// The last event id as it stands, which outlives the event that set it.
        last_event_id: &'a [u8],
        /// Whether this event's own block has set it: browsers do not expose it, but it shows whether a block was torn apart.
        has_own_id: bool,
    },
    /// A comment line without its colon.
    Comment(&'a [u8]),
    /// A valid `retry` field, in milliseconds.
    Retry(u64),
}

/// The state between two reads.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    name: Vec<u8>,
    last_event_id: Vec<u8>,
    /// Whether the current block has set the last event id.
    has_own_id: bool,
    at_start: Start,
    after_cr: bool,
    in_record: bool,
}

/// Whether a byte order mark may still come: only the first three bytes of a stream can be one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Start {
    #[default]
    Pending,
    Passed,
}

impl Parser {
    /// Takes the next bytes of the stream and hands out each item they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Item<'_>)) {
        if self.at_start == Start::Pending {
            // "If the character is U+FEFF BYTE ORDER MARK, it is stripped": the first line collects until that is decided.
            let missing = BOM.len().saturating_sub(self.line.len()).min(bytes.len());
            let (first, rest) = bytes.split_at(missing);
            self.line.extend_from_slice(first);
            bytes = rest;
            if BOM.starts_with(&self.line) && self.line.len() < BOM.len() {
                return;
            }
            self.at_start = Start::Passed;
            let held = std::mem::take(&mut self.line);
            self.lines(held.strip_prefix(BOM).unwrap_or(&held), &mut sink);
        }
        self.lines(bytes, &mut sink);
    }

    /// Whether the stream stands inside a record: a client would throw that record away if the stream ended here.
    #[must_use]
    pub fn in_record(&self) -> bool {
        self.in_record || !self.line.is_empty()
    }

    /// "Lines must be separated by either a CRLF character pair, a single LF character, or a single CR character."
    fn lines(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Item<'_>)) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                return;
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.line_ended(&bytes[..end], sink);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.line_ended(&line, sink);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
    }

    fn line_ended(&mut self, line: &[u8], sink: &mut impl FnMut(Item<'_>)) {
        match memchr(b':', line) {
            // "If the line is empty (a blank line): Dispatch the event."
            None if line.is_empty() => self.dispatch(sink),
            // "If the line starts with a U+003A COLON character (:): Ignore the line."
            Some(0) => sink(Item::Comment(&line[1..])),
            // "Collect the characters before the first colon as field, those after it as value. If value starts with a
            // U+0020 SPACE character, remove it from value."
            Some(colon) => {
                let value = &line[colon + 1..];
                self.field(&line[..colon], value.strip_prefix(b" ").unwrap_or(value), sink);
            }
            // "Otherwise: process the field using the whole line as the field name, and the empty string as the value."
            None => self.field(line, b"", sink),
        }
    }

    fn field(&mut self, field: &[u8], value: &[u8], sink: &mut impl FnMut(Item<'_>)) {
        self.in_record = true;
        match field {
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF) character."
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value."
            b"id" if memchr(0, value).is_none() => {
                self.last_event_id.clear();
                self.last_event_id.extend_from_slice(value);
                self.has_own_id = true;
            }
            // "If the field value consists of only ASCII digits, interpret it as an integer in base ten."
            b"retry" => {
                if let Some(ms) = ascii_digits(value) {
                    sink(Item::Retry(ms));
                }
            }
            // "Otherwise: The field is ignored."
            _ => {}
        }
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(Item<'_>)) {
        self.in_record = false;
        let has_own_id = std::mem::take(&mut self.has_own_id);
        // "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty string and return."
        // "If the data buffer's last character is a U+000A LINE FEED (LF), then remove the last character."
        if let Some((_, data)) = self.data.split_last() {
            sink(Item::Event { name: &self.name, data, last_event_id: &self.last_event_id, has_own_id });
        }
        self.data.clear();
        self.name.clear();
    }
}

fn ascii_digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
