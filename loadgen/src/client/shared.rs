//! State that the streams of one worker share.

use super::meter::StreamMeter;
use crate::clock::unix_us;
use crate::record::Record;
use crate::sse::parser::Parser;

/// What the streams of one worker share; only ever borrowed between two waits.
#[derive(Debug)]
pub struct Shared {
    /// Where everything is counted.
    pub record: Record,
    /// One entry per stream, open or not.
    pub meters: Vec<StreamMeter>,
    /// Read buffer: what it holds is used up before the next stream reads.
    pub scratch: Vec<u8>,
}

impl Shared {
    /// With a read buffer of `scratch_bytes`.
    #[must_use]
    pub fn new(scratch_bytes: usize) -> Self {
        Self { record: Record::default(), meters: Vec::new(), scratch: vec![0; scratch_bytes] }
    }

    /// Counts what has just been read of stream `slot`, all framing taken off.
    pub(super) fn take(&mut self, slot: usize, parser: &mut Parser, content: &[u8]) {
        let now_us = unix_us();
        let (record, meter) = (&mut self.record, &mut self.meters[slot]);
        record.counts.bytes += content.len() as u64;
        parser.feed(content, |item| meter.count(item, now_us, record));
    }
}
