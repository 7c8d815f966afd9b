//! The frames of HTTP/2 connections: what is unfinished, and what exceeds the budget, compared with a reading of the whole wire,
//! however reads fall.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sse_proxy::wire::frames::{FrameWatch, PREFACE, Unfinished};
use sse_proxy_fuzz::cut;

/// What a connection may cost at once, in frames: `BURST`.
const BURST: u64 = 10_000;

/// What it gains each second, in frames.
const FRAMES_PER_SECOND: u64 = 200;

#[derive(Arbitrary, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u16,
    /// How often it comes, in hundreds; once for 0.
    hundreds: u8,
}

#[derive(Arbitrary, Debug)]
struct Input {
    from_client: Vec<Frame>,
    /// Frames sent to the client before each read, taken round and round, by their lengths. Data and others in turn.
    to_client: Vec<u16>,
    /// Sizes of reads, in tens of bytes where the wire is long.
    reads: Vec<u8>,
    /// Milliseconds between reads, taken round and round.
    pauses: Vec<u16>,
    /// How much of the wire comes.
    until: u32,
}

/// A frame of the wire, by where it is.
struct Placed {
    payload: usize,
    ends: usize,
    kind: u8,
    flags: u8,
}

impl Placed {
    fn leaves_block_open(&self) -> bool {
        matches!(self.kind, 1 | 9) && self.flags & 4 == 0
    }

    fn is_free(&self) -> bool {
        self.kind == 1 || self.kind == 0 && (self.ends > self.payload || self.flags & 1 != 0)
    }
}

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let size = (length as u32).to_be_bytes();
    let mut frame = vec![size[1], size[2], size[3], kind, flags, 0, 0, 0, 1];
    frame.resize(9 + length, 0xff);
    frame
}

fuzz_target!(|input: Input| {
    let (mut wire, mut placed) = (PREFACE.to_vec(), Vec::new());
    for Frame { kind, flags, length, hundreds } in input.from_client.iter().take(64) {
        // Mostly kinds that there are.
        let kind = if *kind < 200 { kind % 11 } else { *kind };
        for _ in 0..usize::from(*hundreds % 64) * 100 + usize::from(*hundreds % 64 == 0) {
            let begins = wire.len();
            // Long frames come alone.
            let length = usize::from(if *hundreds % 64 == 0 { *length } else { length % 16 });
            wire.extend_from_slice(&frame(kind, *flags, length));
            placed.push(Placed { payload: begins + 9, ends: begins + 9 + length, kind, flags: *flags });
        }
    }
    wire.truncate(input.until as usize % (wire.len() + 1));
    let sizes = |size: &u8| if wire.len() > 4096 { size.saturating_mul(10).max(50) } else { *size };
    let sizes: Vec<u8> = input.reads.iter().map(sizes).collect();
    check(&input, &placed, &cut(&wire, &sizes));
});

fn check(input: &Input, placed: &[Placed], reads: &[&[u8]]) {
    let (mut now, mut came) = (0u64, 0);
    let mut watch = FrameWatch::new(now);
    // When each byte came would be much to keep: the ends of reads, and when.
    let mut arrivals: Vec<(usize, u64)> = vec![(0, 0)];
    let (mut cost, mut gained, mut refused) = (0u64, 0u64, false);
    for (at, read) in reads.iter().enumerate() {
        if !input.pauses.is_empty() {
            now += u64::from(input.pauses[at % input.pauses.len()]);
        }
        if !input.to_client.is_empty() {
            let length = usize::from(input.to_client[at % input.to_client.len()]);
            watch.sent(&frame(u8::from(at % 2 == 1) * 4, 0, length));
            if at % 2 == 0 {
                gained += 4 + length as u64 / 1024;
            }
        }
        let before = came;
        came += read.len();
        arrivals.push((came, now));
        let costs = headers_within(placed, before, came).filter(|frame| !frame.is_free()).count() as u64;
        cost += costs;
        let within = watch.received(read, now);
        // What one burst allows is never refused; more than all that was gained is never accepted.
        assert!(within || cost > BURST, "refused after {cost} frames");
        assert!(within || costs > 0, "refused without a cost");
        refused |= !within;
        let most = BURST + gained + now * FRAMES_PER_SECOND / 1000;
        assert!(refused || cost <= most, "{cost} frames passed, {most} at most");
        assert_eq!(watch.unfinished(), unfinished(placed, came, &arrivals), "after {came} bytes at {now} ms");
    }
}

/// Frames whose headers are complete with these bytes of the wire.
fn headers_within(placed: &[Placed], from: usize, to: usize) -> impl Iterator<Item = &Placed> {
    let first = placed.partition_point(|frame| frame.payload <= from);
    placed[first..].iter().take_while(move |frame| frame.payload <= to)
}

/// When the byte at this place came.
fn arrival(arrivals: &[(usize, u64)], at: usize) -> u64 {
    arrivals[arrivals.partition_point(|(end, _)| *end <= at)].1
}

fn unfinished(placed: &[Placed], came: usize, arrivals: &[(usize, u64)]) -> Option<(Unfinished, u64)> {
    let begun = placed.partition_point(|frame| frame.payload <= came);
    let last = placed[..begun].last();
    let when = |at: usize| arrival(arrivals, at);
    match last {
        None if came < PREFACE.len() => return Some((Unfinished::Head, 0)),
        None if came == PREFACE.len() => return None,
        Some(frame) if frame.kind == 0 && frame.ends > came => return Some((Unfinished::Data, when(came - 1))),
        _ => {}
    }
    if let Some(frame) = last.filter(|frame| frame.leaves_block_open()) {
        // The block, or what else was put into it, began with the first frame that no open block precedes.
        let mut first = begun - 1;
        while first > 0 && placed[first - 1].leaves_block_open() {
            first -= 1;
        }
        let _ = frame;
        return Some((Unfinished::Head, when(placed[first].payload - 1)));
    }
    let end = last.map_or(PREFACE.len(), |frame| frame.ends);
    if end == came {
        return None;
    }
    if end > came {
        // Within the payload of a frame that is complete as a head: its block, if it ends one, or itself.
        let mut first = begun - 1;
        while first > 0 && placed[first - 1].leaves_block_open() {
            first -= 1;
        }
        return Some((Unfinished::Head, when(placed[first].payload - 1)));
    }
    // Within a header.
    Some((Unfinished::Head, when(end)))
}
