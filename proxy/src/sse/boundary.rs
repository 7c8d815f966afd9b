//! Finds the positions in an event stream where a heartbeat may be inserted: between two events, never inside one.
//!
//! The scanner follows WHATWG HTML §9.2.6 ("Interpreting an event stream") as far as line ends, comments and the byte
//! order mark go, keeps a few bytes of state, and gives the same result however the input is split into reads.

use memchr::memchr2;

/// U+FEFF in UTF-8. "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present" (§9.2.6).
pub(crate) const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// Where in a line the next byte falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Before the stream's first byte.
    Start,
    /// After the first `n` bytes of a byte order mark at the start of the stream (1 or 2).
    Bom(u8),
    /// At the first byte of a line.
    LineStart,
    /// After a CR that ended a line; an LF here would belong to the same line end.
    AfterCr,
    /// Inside a line that began with a colon.
    Comment,
    /// Inside any other line.
    Field,
}

/// The scanner's state after the bytes seen so far. Starts at the beginning of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    position: Position,
    /// A field line has been seen since the last blank line: an event is under way.
    open: bool,
    /// The last line end before the current line was a CR on its own, so a CR needs no LF to be complete here.
    lone_cr: bool,
    /// The line that the CR of [`Position::AfterCr`] ended had begun after a lone CR.
    cr_is_usual: bool,
}

/// What one call of [`Boundary::scan`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Blocks with at least one field line that a blank line ended within these bytes.
    pub events: u32,
    /// Whether any byte belonged to something other than a comment or a line end.
    pub fields: bool,
}

impl Default for Boundary {
    fn default() -> Self {
        Self { position: Position::Start, open: false, lone_cr: false, cr_is_usual: false }
    }
}

impl Boundary {
    /// Whether bytes inserted here would stand between two events.
    ///
    /// True at the start of a line when no field line has come since the last blank line; comment lines leave
    /// nothing pending and do not count. After a CR the LF of the same line end may still be on its way: the place
    /// counts only in a stream whose previous line also ended in a CR on its own. (Should an LF follow all the same,
    /// it reads as one more blank line, which dispatches nothing.)
    pub fn is_boundary(&self) -> bool {
        match self.position {
            Position::Start | Position::LineStart => !self.open,
            Position::AfterCr => !self.open && self.cr_is_usual,
            Position::Bom(_) | Position::Comment | Position::Field => false,
        }
    }

    /// Whether no byte of the stream has been seen yet: what is inserted here comes before a byte order mark.
    pub fn is_start(&self) -> bool {
        self.position == Position::Start
    }

    /// Takes the next bytes of the decoded body.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut seen = Scanned::default();
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            rest = match self.position {
                Position::Start | Position::Bom(_) => self.step_bom(byte, rest),
                Position::LineStart => self.begin_line(byte, rest, &mut seen),
                Position::AfterCr => {
                    self.position = Position::LineStart;
                    self.lone_cr = byte != b'\n';
                    if byte == b'\n' { &rest[1..] } else { rest }
                }
                Position::Comment | Position::Field => self.finish_line(rest, &mut seen),
            };
        }
        seen
    }

    fn step_bom<'a>(&mut self, byte: u8, rest: &'a [u8]) -> &'a [u8] {
        let matched = match self.position {
            Position::Bom(n) => usize::from(n),
            _ => 0,
        };
        if byte == BOM[matched] {
            self.position = match matched {
                0 => Position::Bom(1),
                1 => Position::Bom(2),
                _ => Position::LineStart,
            };
            return &rest[1..];
        }
        // Not a byte order mark after all: whatever matched began the first line.
        if matched == 0 {
            self.position = Position::LineStart;
        } else {
            self.position = Position::Field;
            self.open = true;
        }
        rest
    }

    fn begin_line<'a>(&mut self, byte: u8, rest: &'a [u8], seen: &mut Scanned) -> &'a [u8] {
        match byte {
            b'\n' | b'\r' => {
                // "If the line is empty (a blank line): dispatch the event."
                seen.events += u32::from(self.open);
                self.open = false;
                self.end_line(byte);
                &rest[1..]
            }
            b':' => {
                self.position = Position::Comment;
                &rest[1..]
            }
            _ => {
                self.position = Position::Field;
                self.open = true;
                rest
            }
        }
    }

    fn finish_line<'a>(&mut self, rest: &'a [u8], seen: &mut Scanned) -> &'a [u8] {
        seen.fields |= self.position == Position::Field;
        match memchr2(b'\n', b'\r', rest) {
            Some(at) => {
                self.end_line(rest[at]);
                &rest[at + 1..]
            }
            None => &[],
        }
    }

    fn end_line(&mut self, terminator: u8) {
        if terminator == b'\r' {
            self.position = Position::AfterCr;
            self.cr_is_usual = self.lone_cr;
        } else {
            self.position = Position::LineStart;
            self.lone_cr = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A naive model that parses the whole prefix: the scanner must agree with it after every byte.
    fn naive(prefix: &[u8]) -> (bool, u32) {
        if prefix.is_empty() {
            return (true, 0);
        }
        if prefix.len() < 3 && BOM.starts_with(prefix) {
            return (false, 0);
        }
        let body = prefix.strip_prefix(&BOM[..]).unwrap_or(prefix);
        let (mut open, mut events) = (false, 0);
        let mut line: Vec<u8> = Vec::new();
        let mut previous_end = None;
        let mut at = 0;
        while at < body.len() {
            let end: Option<&[u8]> = match body[at] {
                b'\r' if body.get(at + 1) == Some(&b'\n') => Some(b"\r\n"),
                b'\r' => Some(b"\r"),
                b'\n' => Some(b"\n"),
                _ => None,
            };
            let Some(end) = end else {
                line.push(body[at]);
                at += 1;
                continue;
            };
            if line.is_empty() {
                events += u32::from(open);
                open = false;
            } else if line[0] != b':' {
                open = true;
            }
            line.clear();
            at += end.len();
            if at == body.len() && end == b"\r" {
                // The LF may follow: a place only where lone CRs are what this stream writes.
                return (!open && previous_end == Some(b"\r" as &[u8]), events);
            }
            previous_end = Some(end);
        }
        (line.is_empty() && !open, events)
    }

    fn check_every_split(stream: &[u8]) {
        for cut in 0..=stream.len() {
            let mut split = Boundary::default();
            let mut events = split.scan(&stream[..cut]).events;
            let (expected_boundary, expected_events) = naive(&stream[..cut]);
            assert_eq!(split.is_boundary(), expected_boundary, "after {:?}", stream[..cut].escape_ascii().to_string());
            assert_eq!(events, expected_events, "after {:?}", stream[..cut].escape_ascii().to_string());
            events += split.scan(&stream[cut..]).events;
            assert_eq!(
                (split.is_boundary(), events),
                naive(stream),
                "cut at {cut} of {:?}",
                stream.escape_ascii().to_string()
            );
        }
        let mut bytewise = Boundary::default();
        let events: u32 = stream.iter().map(|byte| bytewise.scan(&[*byte]).events).sum();
        assert_eq!((bytewise.is_boundary(), events), naive(stream), "{:?}", stream.escape_ascii().to_string());
    }

    #[test]
    fn every_split_of_the_corpus_agrees_with_the_naive_reading() {
        let corpus: &[&[u8]] = &[
            b"data: a\n\n",
            b"data: a\r\n\r\n",
            b"data: a\r\r",
            b"data: a\r\n\n",
            b"data: a\n\r\n",
            b"data: a\n\r",
            b"data: a\r\r\n",
            b"\xEF\xBB\xBFdata: a\n\n",
            b"\xEF\xBB\xBF\n\n",
            b"\xEF\xBBdata: a\n\n",
            b"\xEFx\n\n",
            b": hello\n\n: there\ndata: x\n: inside\n\n",
            b":ok\n",
            b"event: x\n: comment inside an event\ndata: 1\n\n",
            b"\n\n\n",
            b"\r\r\rdata: a\r\r",
            b"id: 1\nevent: tick\ndata: {\"a\":1}\ndata: more\n\nid: 2\ndata: b\n\n",
            b"data\n\nretry: 5\n\n",
            b"data: \xEF\xBB\xBF\n\n",
        ];
        for stream in corpus {
            check_every_split(stream);
        }
    }

    #[test]
    fn lf_after_cr_is_awaited_until_the_stream_has_shown_lone_crs() {
        let mut crlf = Boundary::default();
        crlf.scan(b"data: a\r\n\r");
        assert!(!crlf.is_boundary());
        crlf.scan(b"\n");
        assert!(crlf.is_boundary());

        let mut cr = Boundary::default();
        cr.scan(b"data: a\r\r");
        assert!(cr.is_boundary());
    }

    #[test]
    fn comment_only_lines_are_told_apart_from_fields() {
        let mut boundary = Boundary::default();
        assert_eq!(boundary.scan(b": ping\n\n"), Scanned { events: 0, fields: false });
        assert_eq!(boundary.scan(b"data: x\n\n"), Scanned { events: 1, fields: true });
    }

    proptest! {
        #[test]
        fn random_streams_agree_with_the_naive_reading(
            stream in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(0xEF), Just(0xBB), Just(0xBF)], 0..40)
        ) {
            check_every_split(&stream);
        }
    }
}
