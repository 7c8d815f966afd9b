//! Tracks HTTP/2 frame headers (RFC 9113 §4.1), and a budget for frames other than requests and data.
//!
//! Pure: holds nothing but the header that is being read. The library parses the frames; this counts their cost.

/// The first bytes of an HTTP/2 client (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The largest credit of a connection, in frames. Some 20 ms of work.
const BURST: u32 = 10_000;

/// Credit that a connection gains each second, in frames.
const FRAMES_PER_SECOND: u64 = 200;

/// Credit for each DATA frame sent to the client: WINDOW_UPDATE for the stream and for the connection, twice for
/// clients that update in small steps.
const FRAMES_PER_DATA: u32 = 4;

/// Bytes of data sent for each further frame of credit: some clients update both windows every 4 KiB.
const BYTES_PER_FRAME: u32 = 1024;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    kind: u8,
    flags: u8,
    length: u32,
}

impl FrameHeader {
    fn is_data(self) -> bool {
        self.kind == DATA
    }

    /// Whether the frame counts against the budget: all but requests and data.
    fn costs_budget(self) -> bool {
        match self.kind {
            DATA => self.length == 0 && self.flags & END_STREAM == 0,
            kind => kind != HEADERS,
        }
    }

    /// Whether the header block continues after the frame.
    fn leaves_block_open(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION) && self.flags & END_HEADERS == 0
    }
}

/// Splits one direction of a connection into frames.
#[derive(Debug)]
struct Frames {
    header: [u8; HEADER_BYTES],
    have: u8,
    /// Bytes of the current frame, or of the preface, still to come.
    payload: u32,
}

impl Frames {
    /// `preface` bytes come before the first frame.
    fn new(preface: usize) -> Self {
        Self { header: [0; HEADER_BYTES], have: 0, payload: u32::try_from(preface).unwrap_or(0) }
    }

    /// Whether a frame has begun and not ended.
    fn is_within_frame(&self) -> bool {
        self.have > 0 || self.payload > 0
    }

    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(FrameHeader)) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let here = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                bytes = &bytes[here..];
                self.payload -= u32::try_from(here).unwrap_or(self.payload);
                continue;
            }
            let have = usize::from(self.have);
            let take = bytes.len().min(HEADER_BYTES - have);
            self.header[have..have + take].copy_from_slice(&bytes[..take]);
            self.have += u8::try_from(take).unwrap_or(0);
            bytes = &bytes[take..];
            if usize::from(self.have) == HEADER_BYTES {
                self.have = 0;
                let length = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]);
                self.payload = length;
                seen(FrameHeader { kind: self.header[3], flags: self.header[4], length });
            }
        }
    }
}

/// What a client has begun and not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// A head, or any frame but data.
    Head,
    /// A frame of data.
    Data,
}

/// Tracks the frames of a connection in both directions.
#[derive(Debug)]
pub struct FrameWatch {
    from_client: Frames,
    to_client: Frames,
    last: Option<FrameHeader>,
    /// When the unfinished frame or head began, in milliseconds; for data, when its last bytes arrived.
    since: u64,
    credit: u32,
    /// When credit for elapsed time was last added, in milliseconds.
    credited_at: u64,
}

impl FrameWatch {
    /// A connection whose preface has not been read.
    pub fn new(now_ms: u64) -> Self {
        let (from_client, to_client) = (Frames::new(PREFACE.len()), Frames::new(0));
        Self { from_client, to_client, last: None, since: now_ms, credit: BURST, credited_at: now_ms }
    }

    /// The client has sent `bytes`. Returns whether it is within its budget.
    #[must_use]
    pub fn received(&mut self, bytes: &[u8], now_ms: u64) -> bool {
        let (mut cost, mut last) = (0u32, self.last);
        let ends_frame = usize::try_from(self.from_client.payload).is_ok_and(|left| left <= bytes.len());
        let mut begins = self.from_client.have == 0 && ends_frame && !self.is_block_open();
        self.from_client.feed(bytes, |frame| {
            cost += u32::from(frame.costs_budget());
            begins |= !last.is_some_and(FrameHeader::leaves_block_open);
            last = Some(frame);
        });
        self.last = last;
        if begins || self.is_within_data() {
            self.since = now_ms;
        }
        if cost == 0 {
            return true;
        }
        let earned = now_ms.saturating_sub(self.credited_at) * FRAMES_PER_SECOND / 1000;
        if earned > 0 {
            self.credited_at = now_ms;
            self.earn(u32::try_from(earned).unwrap_or(BURST));
        }
        let within = cost <= self.credit;
        self.credit = self.credit.saturating_sub(cost);
        within
    }

    /// `bytes` have been sent to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut earned = 0u32;
        self.to_client.feed(bytes, |frame| {
            if frame.is_data() {
                earned = earned.saturating_add(FRAMES_PER_DATA + frame.length / BYTES_PER_FRAME);
            }
        });
        self.earn(earned);
    }

    /// What the client has begun and not completed, and since when; for data, since its last bytes.
    pub fn unfinished(&self) -> Option<(Unfinished, u64)> {
        let what = match self.is_within_data() {
            true => Unfinished::Data,
            false if self.is_block_open() || self.from_client.is_within_frame() => Unfinished::Head,
            false => return None,
        };
        Some((what, self.since))
    }

    fn is_within_data(&self) -> bool {
        self.from_client.payload > 0 && self.last.is_some_and(FrameHeader::is_data)
    }

    fn is_block_open(&self) -> bool {
        self.last.is_some_and(FrameHeader::leaves_block_open)
    }

    fn earn(&mut self, frames: u32) {
        self.credit = self.credit.saturating_add(frames).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 0xff);
        frame
    }

    /// After the preface and the SETTINGS of any client.
    fn begun() -> FrameWatch {
        let mut watch = FrameWatch::new(0);
        assert!(watch.received(&[&PREFACE[..], &frame(4, 0, 18)].concat(), 0));
        watch
    }

    /// How many times `bytes` pass.
    fn passes(watch: &mut FrameWatch, bytes: &[u8], now_ms: u64) -> usize {
        (0..30_000).take_while(|_| watch.received(bytes, now_ms)).count()
    }

    #[test]
    fn frames_are_seen_however_they_are_split() {
        let wire = [frame(0, 0, 5), frame(1, 5, 0), frame(9, 4, 300), frame(0, 1, 0)].concat();
        let seen = |cut: usize, step: usize| {
            let (mut frames, mut seen) = (Frames::new(0), Vec::new());
            frames.feed(&wire[..cut], |frame| seen.push(frame));
            wire[cut..].chunks(step).for_each(|bytes| frames.feed(bytes, |frame| seen.push(frame)));
            assert!(!frames.is_within_frame());
            seen
        };
        let whole = seen(0, wire.len());
        let lengths: Vec<_> = whole.iter().map(|frame| (frame.kind, frame.flags, frame.length)).collect();
        assert_eq!(lengths, [(0, 0, 5), (1, 5, 0), (9, 4, 300), (0, 1, 0)]);
        for cut in 0..wire.len() {
            assert_eq!(seen(cut, wire.len()), whole, "cut at {cut}");
            assert_eq!(seen(cut, 1), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_flood_of_any_kind_exceeds_the_budget_and_credit_returns_with_time() {
        for (name, frame) in [
            ("WINDOW_UPDATE", frame(8, 0, 4)),
            ("PING", frame(6, 0, 8)),
            ("PING ack", frame(6, 1, 8)),
            ("RST_STREAM", frame(3, 0, 4)),
            ("GOAWAY", frame(7, 0, 8)),
            ("SETTINGS", frame(4, 0, 0)),
            ("SETTINGS ack", frame(4, 1, 0)),
            ("PRIORITY", frame(2, 0, 5)),
            ("CONTINUATION", frame(9, 0, 100)),
            ("empty DATA", frame(0, 0, 0)),
            ("unknown", frame(0x42, 0, 10)),
        ] {
            let mut watch = begun();
            let passed = passes(&mut watch, &frame, 0);
            assert!((5_000..20_000).contains(&passed), "{name}: {passed}");
            // Answers of its kind earn nothing.
            watch.sent(&if frame[3] == DATA { Vec::new() } else { frame.clone() });
            assert_eq!(passes(&mut watch, &frame, 0), 0, "{name}");
            let earned = passes(&mut watch, &frame, 1000);
            assert!((100..400).contains(&earned), "{name}: {earned} in a second");
            assert!(passes(&mut watch, &frame, 1000) < 10, "{name}: a second counts once");
        }
    }

    #[test]
    fn requests_and_data_are_free_and_downloads_earn_credit_for_window_updates() {
        let mut watch = begun();
        assert_eq!(passes(&mut watch, &frame(1, 5, 40), 0), 30_000);
        assert_eq!(passes(&mut watch, &frame(0, 0, 1000), 0), 30_000);
        let (update, mut downloaded) = (frame(8, 0, 4), 0);
        // Downloads in frames of 16 KiB, with two updates for every 4 KiB, in no time.
        while downloaded < 1 << 26 {
            watch.sent(&frame(0, 0, 16_384));
            downloaded += 16_384;
            for _ in 0..8 {
                assert!(watch.received(&update, 0), "after {downloaded} bytes");
            }
        }
        // Many small events, with an update of both windows for each.
        for event in 0..30_000 {
            watch.sent(&frame(0, 0, 40));
            assert!(watch.received(&update, 0) && watch.received(&update, 0), "after {event} events");
        }
        // An hour of PING every second.
        for second in 0..3600 {
            assert!(watch.received(&frame(6, 0, 8), second * 1000));
        }
    }

    #[test]
    fn unfinished_heads_and_data_are_tracked() {
        let mut watch = FrameWatch::new(0);
        let mut now = 0;
        // Each step is 10 ms after the one before.
        let mut step = |bytes: &[u8]| {
            now += 10;
            assert!(watch.received(bytes, now));
            watch.unfinished()
        };
        use Unfinished::{Data, Head};
        assert_eq!(step(&PREFACE[..10]), Some((Head, 0)));
        assert_eq!(step(&PREFACE[10..20]), Some((Head, 0)));
        assert_eq!(step(&PREFACE[20..]), None);
        let settings = frame(4, 0, 6);
        assert_eq!(step(&settings[..3]), Some((Head, 40)));
        assert_eq!(step(&settings[3..12]), Some((Head, 50)));
        assert_eq!(step(&settings[12..14]), Some((Head, 50)));
        // A frame ends and another begins: the clock begins anew, however reads fall.
        assert_eq!(step(&[&settings[14..], &settings[..2]].concat()), Some((Head, 70)));
        assert_eq!(step(&settings[2..]), None);
        // A header block has one clock to its end.
        assert_eq!(step(&frame(1, 0, 10)), Some((Head, 90)));
        assert_eq!(step(&frame(9, 0, 10)), Some((Head, 90)));
        assert_eq!(step(&frame(9, 4, 10)[..15]), Some((Head, 90)));
        assert_eq!(step(&frame(9, 4, 10)[15..]), None);
        // Each piece of data is progress.
        let data = frame(0, 1, 10);
        assert_eq!(step(&data[..12]), Some((Data, 130)));
        assert_eq!(step(&data[12..15]), Some((Data, 140)));
        // Data ends and a header begins: the pieces of the header are no progress.
        assert_eq!(step(&[&data[15..], &settings[..2]].concat()), Some((Head, 150)));
        assert_eq!(step(&settings[2..4]), Some((Head, 150)));
        // Its clock begins once more when it is complete.
        assert_eq!(step(&settings[4..10]), Some((Head, 170)));
        assert_eq!(step(&settings[10..]), None);
    }
}
