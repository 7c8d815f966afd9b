//! The checked description of one stream, parsed from the query of `/events`.

/// When a stream's events are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Each stream has its own phase within the interval, so that all streams together make an even flow.
    Staggered,
    /// All streams share the same ticks, multiples of the interval since the epoch.
    Broadcast,
}

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eol {
    /// LF.
    Lf,
    /// CR.
    Cr,
    /// CR LF.
    Crlf,
    /// All three in turn.
    Mixed,
}

/// How an event is cut into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// One write, one chunk.
    Whole,
    /// A chunk and a write for every n bytes.
    Every(usize),
    /// Chunks cut at random, and writes cut at random places of the result, chunk framing included.
    Random,
}

/// How the body's end is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferFraming {
    /// Chunked coding.
    Chunked,
    /// `Content-Length`.
    Length,
    /// The connection's end.
    Close,
}

/// What a stream does at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Events by the schedule.
    Events,
    /// A head and then nothing.
    Silent,
    /// Events as fast as the connection takes them.
    Flood,
    /// Not even a head.
    Hang,
}

/// What happens after the last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The body ends as its framing says.
    Close,
    /// The stream stays open and silent.
    Hold,
}

/// What browsers call an event without an `event` field.
const DEFAULT_NAME: &str = "message";

/// One stream as requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// What it does.
    pub mode: Mode,
    /// Time between two events, µs.
    pub interval_us: u64,
    /// Bytes of data text per event (at least what the stamp needs).
    pub size: usize,
    /// How many events; `None` for no end.
    pub count: Option<u64>,
    /// What follows the last one.
    pub ending: Ending,
    /// Silence before the first event, µs.
    pub start_after_us: u64,
    /// The earliest due time, Unix µs.
    pub start_at_us: u64,
    /// The gate that holds the events back until it is opened.
    pub gate: Option<Box<str>>,
    /// When events are due.
    pub schedule: Schedule,
    /// How lines end.
    pub eol: Eol,
    /// How events are cut into writes.
    pub pieces: Pieces,
    /// Whether the body begins with a byte order mark.
    pub bom: bool,
    /// The reconnection time that the body begins with, in a `retry` field.
    pub retry_ms: Option<u64>,
    /// Data lines per event.
    pub lines: usize,
    /// How the body's end is marked.
    pub framing: TransferFraming,
    /// After how many events the connection is cut in the middle of the next.
    pub abort_after: Option<u64>,
    /// Time before the head is sent, µs.
    pub first_byte_delay_us: u64,
    /// Time between two comment lines, µs.
    pub comments_us: Option<u64>,
    /// The events' name: `message`, which is what browsers call an event without a name, or another.
    pub name: Box<str>,
    /// Whether trailer fields follow the last chunk.
    pub trailers: bool,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self {
            mode: Mode::Events,
            interval_us: 1_000_000,
            size: 100,
            count: None,
            ending: Ending::Close,
            start_after_us: 0,
            start_at_us: 0,
            gate: None,
            schedule: Schedule::Staggered,
            eol: Eol::Lf,
            pieces: Pieces::Whole,
            bom: false,
            retry_ms: None,
            lines: 1,
            framing: TransferFraming::Chunked,
            abort_after: None,
            first_byte_delay_us: 0,
            comments_us: None,
            name: DEFAULT_NAME.into(),
            trailers: false,
        }
    }
}
