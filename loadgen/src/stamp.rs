//! The stamp that every event of the origin carries as its data: stream, sequence number, due time, checksum.
//!
//! The text is one JSON object, so that a web page can read it too, with its members always in this order:
//! `{"s":STREAM,"n":SEQ,"due":US,"sent":US,"len":BYTES,"pad":"…","crc":"89abcdef"}`. `len` counts the whole text and `crc`
//! (CRC-32) covers the event's name and then everything before `crc`, padding included: a text that is too short was torn,
//! one that is damaged corrupted.

use std::io::Write as _;

const HEAD: &[u8] = b"{\"s\":";
const TAIL_KEY: &[u8] = b"\"crc\":\"";
/// `"crc":"89abcdef"}`
const TAIL_BYTES: usize = TAIL_KEY.len() + 8 + 2;
const PAD_OPEN: &[u8] = b"\"pad\":\"";
const PAD_CLOSE: &[u8] = b"\",";
const LINE_KEY: &[u8] = b"\"line\":";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// What an event says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The stream it was written to; constant on one connection.
    pub stream: u64,
    /// Its place in that stream, counted from 1; equal to the event's id.
    pub seq: u64,
    /// When it was intended to be sent, Unix µs.
    pub due_us: u64,
    /// When it was handed to the kernel, Unix µs.
    pub sent_us: u64,
}

/// What a data text turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A stamp, complete and undamaged.
    Whole(Stamp),
    /// Part of a stamp: the event was cut.
    Torn {
        /// Whether the part begins where the stamp does.
        has_start: bool,
        /// Whether it ends where the stamp does.
        has_end: bool,
    },
    /// A stamp whose checksum or length does not fit.
    Corrupted,
    /// Nothing of ours.
    Foreign,
}

impl Stamp {
    /// Appends the data text of an event called `name` to `out`: `size` bytes (more when the stamp itself needs more) in
    /// `lines` lines parted by LF.
    pub fn write(&self, name: &[u8], size: usize, lines: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let _ = write!(
            out,
            "{{\"s\":{},\"n\":{},\"due\":{},\"sent\":{},\"len\":",
            self.stream, self.seq, self.due_us, self.sent_us
        );
        let fixed_bytes = out.len() - start + 1 + line_bytes(lines) + TAIL_BYTES;
        let len = total_bytes(fixed_bytes, size);
        let _ = write!(out, "{len},");
        pad(len - fixed_bytes - digits(len), self.seq, out);
        for line in 2..lines {
            let _ = write!(out, "\n\"line\":{line},");
        }
        if lines > 1 {
            out.push(b'\n');
        }
        let crc = checksum(name, &out[start..]);
        let _ = write!(out, "\"crc\":\"{crc:08x}\"}}");
    }
}

/// Reads the data text of an event called `name` as a client received it (lines joined by LF).
#[must_use]
pub fn read(name: &[u8], data: &[u8]) -> Reading {
    let has_end = has_tail(data);
    if !data.starts_with(HEAD) {
        let is_part = has_end || data.starts_with(PAD_OPEN) || data.starts_with(LINE_KEY);
        return if is_part { Reading::Torn { has_start: false, has_end } } else { Reading::Foreign };
    }
    let torn = Reading::Torn { has_start: true, has_end };
    let Some((stamp, len)) = parse_head(data) else {
        return if has_end { Reading::Corrupted } else { torn };
    };
    if data.len() < len {
        return torn;
    }
    if data.len() > len || !has_end {
        return Reading::Corrupted;
    }
    let (covered, tail) = data.split_at(len - TAIL_BYTES);
    let written = std::str::from_utf8(&tail[TAIL_KEY.len()..TAIL_KEY.len() + 8]).ok();
    match written.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
        Some(crc) if crc == checksum(name, covered) => Reading::Whole(stamp),
        _ => Reading::Corrupted,
    }
}

fn checksum(name: &[u8], text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(text);
    hasher.finalize()
}

fn has_tail(data: &[u8]) -> bool {
    data.len() >= TAIL_BYTES && data[data.len() - TAIL_BYTES..].starts_with(TAIL_KEY) && data.ends_with(b"\"}")
}

fn parse_head(data: &[u8]) -> Option<(Stamp, usize)> {
    let mut rest = data;
    let stream = number(&mut rest, HEAD)?;
    let seq = number(&mut rest, b",\"n\":")?;
    let due_us = number(&mut rest, b",\"due\":")?;
    let sent_us = number(&mut rest, b",\"sent\":")?;
    let len = number(&mut rest, b",\"len\":")?;
    rest.starts_with(b",").then_some((Stamp { stream, seq, due_us, sent_us }, usize::try_from(len).ok()?))
}

fn number(rest: &mut &[u8], key: &[u8]) -> Option<u64> {
    let digits = rest.strip_prefix(key)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let value = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    *rest = &digits[end..];
    Some(value)
}

/// The smallest total that holds the fixed part and its own decimal length, but at least `size`.
fn total_bytes(fixed_bytes: usize, size: usize) -> usize {
    let mut total = size.max(fixed_bytes + 1);
    while total < fixed_bytes + digits(total) {
        total += 1;
    }
    total
}

fn pad(bytes: usize, seq: u64, out: &mut Vec<u8>) {
    let Some(letters) = bytes.checked_sub(PAD_OPEN.len() + PAD_CLOSE.len()) else {
        out.resize(out.len() + bytes, b' ');
        return;
    };
    out.extend_from_slice(PAD_OPEN);
    let start = seq as usize % LETTERS.len();
    let mut missing = letters;
    let mut run = &LETTERS[start..];
    while missing > 0 {
        let taken = missing.min(run.len());
        out.extend_from_slice(&run[..taken]);
        missing -= taken;
        run = LETTERS;
    }
    out.extend_from_slice(PAD_CLOSE);
}

fn line_bytes(lines: usize) -> usize {
    let inner: usize = (2..lines).map(|line| 1 + LINE_KEY.len() + digits(line) + 1).sum();
    inner + usize::from(lines > 1)
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { stream: 7, seq: 42, due_us: 1_795_000_000_000_000, sent_us: 1_795_000_000_000_123 };

    const NAME: &[u8] = b"message";

    fn text(size: usize, lines: usize) -> Vec<u8> {
        let mut out = Vec::new();
        STAMP.write(NAME, size, lines, &mut out);
        out
    }

    #[test]
    fn every_size_and_line_count_reads_back_whole() {
        for size in (0..1200).chain([9_999, 10_000, 100_000]) {
            for lines in [1, 2, 3, 12] {
                let text = text(size, lines);
                assert_eq!(read(NAME, &text), Reading::Whole(STAMP), "size {size}, lines {lines}");
                assert!(text.len() >= size);
                assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), lines - 1);
            }
        }
    }

    #[test]
    fn a_hundred_bytes_are_enough_for_a_usual_stamp() {
        assert_eq!(text(100, 1).len(), 100);
    }

    #[test]
    fn text_is_json() {
        for size in [0, 100, 300] {
            let value: serde_json::Value = serde_json::from_slice(&text(size, 4)).expect("the stamp is JSON");
            assert_eq!(value["n"], 42);
        }
    }

    #[test]
    fn every_prefix_is_torn_and_every_suffix_with_its_tail_too() {
        let text = text(200, 1);
        for end in HEAD.len()..text.len() {
            assert_eq!(read(NAME, &text[..end]), Reading::Torn { has_start: true, has_end: false }, "prefix of {end}");
        }
        for start in 1..text.len() - TAIL_BYTES {
            assert_eq!(
                read(NAME, &text[start..]),
                Reading::Torn { has_start: false, has_end: true },
                "suffix from {start}"
            );
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = text(150, 3);
        for index in 0..text.len() {
            let mut damaged = text.clone();
            damaged[index] ^= 1;
            assert!(!matches!(read(NAME, &damaged), Reading::Whole(_)), "byte {index}");
        }
        assert_eq!(read(b"messagf", &text), Reading::Corrupted);
    }

    #[test]
    fn other_texts_are_foreign() {
        for text in ["", "ping", "{}", "{\"type\":\"ping\"}", "[DONE]"] {
            assert_eq!(read(NAME, text.as_bytes()), Reading::Foreign, "{text}");
        }
    }
}
