//! The rules of a stream under random operations in any order, against a model that knows the whole stream at each moment:
//! bytes once and in order, heartbeats only where and when they may stand, deadlines whatever else is blocked, one end.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sse_proxy::sse::{Heartbeat, HeartbeatStyle};
use sse_proxy::stream::{EndReason, Framing, HeartbeatPolicy, Millis, Opening, Pair, Policy};
use sse_proxy::wire::body::Body;
use sse_proxy::wire::chunked::Decoder;
use sse_proxy_fuzz::{chunked, whatwg};

/// How long a stream that reaches its lifetime may take to a boundary.
const CLOSE_LIMIT: u64 = 10_000;
/// How long the last bytes of an ended stream may wait where there is no write timeout.
const FLUSH_LIMIT: u64 = 30_000;
const BOM: &[u8] = b"\xEF\xBB\xBF";

#[derive(Arbitrary, Debug)]
struct Input {
    framing: bool,
    body: Delimited,
    identity: bool,
    heartbeat: Option<u8>,
    idle: Option<u8>,
    write: Option<u8>,
    lifetime: Option<u8>,
    ignores_comments: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Delimited {
    UntilClose,
    Length(u8),
    Chunked,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Bytes of the body, framed as they have to be.
    Data(Vec<u8>),
    /// Bytes of the connection, whatever they mean.
    Wire(Vec<u8>),
    /// The client takes so many bytes.
    Takes(u8),
    TakesAll,
    /// Tenths of a second pass, and the driver's timer comes when it is due, or only then.
    Pass(u8),
    PassTo(u8),
    Drain(u8),
    UpstreamWaits,
    UpstreamCloses,
    UpstreamFails,
    ClientGone,
    ClientStalled,
}

/// Tenths of a second, from 1.
fn millis(tenths: u8) -> u64 {
    (u64::from(tenths) + 1) * 100
}

/// What is known of a stream without its rules' own state.
struct Model {
    input: Input,
    beat: Vec<u8>,
    pair: Pair,
    now: u64,
    /// Everything that the upstream has sent.
    wire: Vec<u8>,
    /// Everything that was given out for the client, and how much of it the client has taken.
    out: Vec<u8>,
    taken: usize,
    /// Body bytes of the upstream that were passed on, without heartbeats.
    passed: Vec<u8>,
    beats: u64,
    /// A heartbeat has gone out before the first byte.
    began_with_beat: bool,
    /// Since when nothing is pending, or the client has taken nothing.
    caught_up: u64,
    behind_since: Option<u64>,
    active: u64,
    /// When the stream has to have ended at the latest, once it was asked to.
    close_by: Option<u64>,
    /// How much of the upstream's body there was when it was asked to.
    close_from: Option<usize>,
    ended: Option<EndReason>,
}

fuzz_target!(|input: Input| {
    if input.operations.len() <= 80 {
        Model::new(input).run();
    }
});

impl Model {
    fn new(input: Input) -> Self {
        let heartbeat = Heartbeat::new(HeartbeatStyle::Comment, "BEAT").expect("valid");
        let beat = heartbeat.bytes().to_vec();
        let after = |tenths: Option<u8>| tenths.map(|tenths| Duration::from_millis(millis(tenths)));
        let mut policy = Policy::default();
        policy.heartbeat = after(input.heartbeat).map(|interval| HeartbeatPolicy::new(interval, heartbeat));
        policy.timeouts.idle = after(input.idle);
        policy.timeouts.write = after(input.write);
        policy.timeouts.lifetime = after(input.lifetime);
        policy.idle_ignores_comments = input.ignores_comments;
        let body = match input.body {
            Delimited::UntilClose => Body::UntilClose,
            Delimited::Length(length) => Body::Length(u64::from(length)),
            Delimited::Chunked => Body::Chunked(Decoder::default()),
        };
        let framing = if input.framing { Framing::Chunked } else { Framing::Plain };
        let opening = Opening { policy: Arc::new(policy), body, framing, identity: input.identity, random: 0.0, lifetime: None };
        let pair = Pair::new(opening, Millis(0));
        Self {
            input,
            beat,
            pair,
            now: 0,
            wire: Vec::new(),
            out: Vec::new(),
            taken: 0,
            passed: Vec::new(),
            beats: 0,
            began_with_beat: false,
            caught_up: 0,
            behind_since: None,
            active: 0,
            close_by: None,
            close_from: None,
            ended: None,
        }
    }

    fn run(mut self) {
        // What came with the head: nothing, which may be all there is.
        let mut out = Vec::new();
        self.pair.upstream_data(&[], Millis(0), &mut out);
        self.take_data(&out);
        self.check_end(&[EndReason::UpstreamEnd]);
        for operation in std::mem::take(&mut self.input.operations) {
            match operation {
                Operation::Data(bytes) if self.input.body == Delimited::Chunked => {
                    // An empty chunk is the last one.
                    let end: &[u8] = if bytes.is_empty() { b"\r\n" } else { b"" };
                    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n", end].concat();
                    let length = if bytes.is_empty() { chunk.len() - 2 } else { chunk.len() };
                    self.upstream(&chunk[..length]);
                }
                Operation::Data(bytes) | Operation::Wire(bytes) => self.upstream(&bytes),
                Operation::Takes(count) => self.take(usize::from(count)),
                Operation::TakesAll => self.take(usize::MAX),
                Operation::Pass(tenths) => self.pass(millis(tenths), true),
                Operation::PassTo(tenths) => self.pass(millis(tenths), false),
                Operation::Drain(tenths) => self.drain(millis(tenths)),
                Operation::UpstreamWaits if self.ended.is_none() && self.behind_since.is_some() => {
                    self.pair.upstream_waits(Millis(self.now));
                    self.active = self.now;
                }
                Operation::UpstreamWaits => {}
                Operation::UpstreamCloses if self.pair.wants_upstream() => {
                    let mut out = Vec::new();
                    self.pair.upstream_closed(Millis(self.now), &mut out);
                    self.take_data(&out);
                    self.check_end(&[EndReason::UpstreamEnd, EndReason::UpstreamBroken]);
                }
                Operation::UpstreamFails if self.pair.wants_upstream() => {
                    self.pair.upstream_failed(Millis(self.now));
                    self.check_end(&[EndReason::UpstreamBroken]);
                }
                Operation::UpstreamCloses | Operation::UpstreamFails => {}
                Operation::ClientGone => {
                    self.pair.client_gone();
                    self.check_abandoned(EndReason::ClientGone);
                }
                Operation::ClientStalled => {
                    self.pair.client_stalled();
                    self.check_abandoned(EndReason::WriteTimeout);
                }
            }
            if self.pair.abandoned() {
                assert!(!self.pair.ended_clean() && !self.pair.wants_upstream());
                assert_eq!(self.pair.next_deadline(), None);
                return;
            }
            self.check();
        }
    }

    fn upstream(&mut self, bytes: &[u8]) {
        if !self.pair.wants_upstream() || bytes.is_empty() {
            return;
        }
        let before = self.body().0.len();
        self.wire.extend_from_slice(bytes);
        let mut out = Vec::new();
        self.pair.upstream_data(bytes, Millis(self.now), &mut out);
        // Which bytes count where comments do not is for the unit tests; here all that is checked is that some may.
        if self.body().0.len() > before {
            self.active = self.now;
        }
        self.take_data(&out);
        let closing = if self.input.lifetime.is_some() { EndReason::Lifetime } else { EndReason::Drain };
        self.check_end(&[EndReason::UpstreamEnd, EndReason::UpstreamProtocol, closing, EndReason::Drain]);
    }

    fn drain(&mut self, limit: u64) {
        if self.ended.is_none() {
            let by = self.now + limit;
            self.close_by = Some(self.close_by.map_or(by, |known| known.min(by)));
            self.close_from.get_or_insert(self.passed.len());
        }
        self.pair.close(EndReason::Drain, Duration::from_millis(limit), Millis(self.now));
        // Where events cannot be told apart there is no better moment.
        self.check_end(if self.input.identity { &[] } else { &[EndReason::Drain] });
    }

    /// Lets time pass; with a driver that looks in whenever something is due, or only at the end.
    fn pass(&mut self, by: u64, punctual: bool) {
        let until = self.now + by;
        while punctual {
            match self.pair.next_deadline().filter(|next| next.0 <= until) {
                Some(next) => self.now = next.0.max(self.now),
                None => break,
            }
            if !self.tick() {
                return;
            }
        }
        self.now = until;
        self.tick();
    }

    /// Whether the stream goes on to be looked at.
    fn tick(&mut self) -> bool {
        let (blocked, was_ended) = (self.behind_since, self.ended);
        let before = self.pair.counts().heartbeats;
        let mut out = Vec::new();
        self.pair.tick(Millis(self.now), &mut out);
        let beats = self.pair.counts().heartbeats - before;
        assert!(beats <= 1, "one look, one heartbeat");
        if beats == 1 {
            let interval = self.input.heartbeat.map(millis).expect("heartbeats are on");
            let (boundary, _) = whatwg::boundary(self.seen());
            assert!(self.input.identity && boundary, "a heartbeat within an event: {:?}", self.passed);
            assert!(blocked.is_none(), "a heartbeat behind what waits");
            assert!(self.now >= self.caught_up + interval, "a heartbeat too early");
            self.began_with_beat |= self.body().0.is_empty() && self.beats == 0;
            self.beats += 1;
            let framed = self.framed(&self.beat);
            assert!(out.starts_with(&framed), "a heartbeat is whole: {}", out.escape_ascii());
            self.give(&framed.clone());
            out.drain(..framed.len());
        }
        if self.pair.ended() != was_ended {
            self.close_from.get_or_insert(self.passed.len());
        }
        self.take_data(&out);
        if self.pair.abandoned() {
            let allowed = [EndReason::WriteTimeout, EndReason::Drain, EndReason::Lifetime];
            assert!(self.pair.ended().is_some_and(|reason| allowed.contains(&reason)) && blocked.is_some());
            return false;
        }
        let allowed = [EndReason::IdleTimeout, EndReason::Drain, EndReason::Lifetime];
        self.check_end(&allowed);
        self.check_deadlines();
        true
    }

    /// What must have happened by now.
    fn check_deadlines(&mut self) {
        let write = self.input.write.map(millis).or(self.ended.is_some().then_some(FLUSH_LIMIT));
        if let (Some(since), Some(limit)) = (self.behind_since, write) {
            assert!(self.now < since + limit, "a client that takes nothing is cut");
        }
        if self.ended == Some(EndReason::IdleTimeout) && self.input.idle.is_none() {
            panic!("idle is not limited");
        }
        if self.ended.is_none() {
            if let Some(idle) = self.input.idle.map(millis) {
                assert!(self.now < self.active + idle, "a silent upstream is cut");
            }
            if let Some(by) = self.close_by {
                assert!(self.now < by, "a stream that has to end does");
            }
            if let Some(lifetime) = self.input.lifetime.map(millis) {
                assert!(self.now < lifetime + CLOSE_LIMIT + FLUSH_LIMIT + 25_700, "a lifetime is limited");
            }
            let due = self.input.heartbeat.map(millis).map(|interval| self.caught_up + interval);
            let boundary = self.input.identity && whatwg::boundary(self.seen()).0;
            if due.is_some_and(|due| due < self.now) && self.behind_since.is_none() && boundary {
                panic!("a heartbeat is missing");
            }
        }
        if let Some(next) = self.pair.next_deadline() {
            assert!(next.0 > self.now, "a deadline that has come is acted on");
        }
    }

    /// Takes what is no heartbeat: body bytes, or the end of the body.
    fn take_data(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        let before = self.client_body().len();
        self.give(out);
        let fresh = self.client_body().split_off(before);
        self.passed.extend_from_slice(&fresh);
    }

    /// The driver's part: what is given out waits behind what is there.
    fn give(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        // It goes on to the client with the next `Takes`.
        self.pair.wrote(false, true, Millis(self.now));
        self.behind_since.get_or_insert(self.now);
    }

    fn take(&mut self, count: usize) {
        let pending = self.out.len() - self.taken;
        let count = count.min(pending);
        if pending == 0 {
            return;
        }
        self.taken += count;
        let rest = self.taken < self.out.len();
        self.pair.wrote(count > 0, rest, Millis(self.now));
        if count > 0 {
            self.behind_since = rest.then_some(self.now);
        }
        if !rest {
            self.caught_up = self.now;
            self.behind_since = None;
        }
    }

    fn framed(&self, bytes: &[u8]) -> Vec<u8> {
        match self.input.framing {
            true => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
            false => bytes.to_vec(),
        }
    }

    /// The body that the client has, heartbeats included.
    fn client_body(&self) -> Vec<u8> {
        match self.input.framing {
            true => chunked::decode(&self.out).data,
            false => self.out.clone(),
        }
    }

    /// The body that the upstream has sent, and how far it goes.
    fn body(&self) -> (Vec<u8>, chunked::End) {
        match self.input.body {
            Delimited::UntilClose => (self.wire.clone(), chunked::End::More),
            Delimited::Length(length) => {
                let length = usize::from(length);
                let end = if self.wire.len() >= length { chunked::End::Complete(length) } else { chunked::End::More };
                (self.wire[..length.min(self.wire.len())].to_vec(), end)
            }
            Delimited::Chunked => {
                let decoded = chunked::decode(&self.wire);
                (decoded.data, decoded.end)
            }
        }
    }

    /// What the scanner has seen: a byte order mark that was dropped is a place like any other.
    fn seen(&self) -> &[u8] {
        &self.passed
    }

    /// The client's connection has failed: that is the end, unless it had ended and taken everything.
    fn check_abandoned(&mut self, reason: EndReason) {
        let known = self.ended.filter(|_| self.behind_since.is_none());
        assert_eq!(self.pair.ended(), known.or(Some(reason)));
        assert!(self.pair.abandoned());
    }

    fn check_end(&mut self, allowed: &[EndReason]) {
        let Some(reason) = self.pair.ended() else {
            assert_eq!(self.ended, None, "an end is for good");
            return;
        };
        if let Some(known) = self.ended {
            assert_eq!(reason, known, "a stream ends once");
            return;
        }
        assert!(allowed.contains(&reason), "{reason:?} is not among {allowed:?}");
        self.ended = Some(reason);
        // The last bytes have a write timeout of their own.
        self.behind_since = self.behind_since.map(|_| self.now);
    }

    fn check(&mut self) {
        let (body, end) = self.body();
        let expected = match self.began_with_beat {
            true => body.strip_prefix(BOM).unwrap_or(&body),
            false => &body,
        };
        let passed = self.passed.as_slice();
        let held = self.began_with_beat && BOM.starts_with(&body) && passed.is_empty();
        match self.ended {
            None if held => {}
            None => assert_eq!(passed, expected, "bytes go on once, in order, at once"),
            Some(_) if held => {}
            Some(EndReason::UpstreamEnd) => assert_eq!(passed, expected, "a whole body is passed on whole"),
            Some(_) => assert!(expected.starts_with(passed), "nothing is made up: {passed:?} of {expected:?}"),
        }
        if self.ended.is_none() {
            assert_ne!(end, chunked::End::Broken, "framing that makes no sense ends the stream");
            assert!(!matches!(end, chunked::End::Complete(_)), "a body that is complete ends the stream");
        }
        // An end at a boundary is one, and no earlier one was left out.
        if self.input.identity
            && self.pair.ended_clean()
            && matches!(self.ended, Some(EndReason::Drain | EndReason::Lifetime))
        {
            assert!(whatwg::boundary(passed).0, "ended within an event: {passed:?}");
        }
        let complete = matches!(chunked::decode(&self.out).end, chunked::End::Complete(_));
        if self.input.framing {
            assert_eq!(complete, self.pair.ended_clean(), "the client can tell a broken end from a clean one");
        }
        assert_eq!(self.pair.wants_upstream(), self.ended.is_none() && self.behind_since.is_none());
        let counts = self.pair.counts();
        assert_eq!(counts.heartbeats, self.beats);
        if self.input.identity && !held {
            assert_eq!(counts.events, whatwg::boundary(passed).1, "events of {passed:?}");
        }
        assert_eq!(self.client_body().len(), passed.len() + self.beats as usize * self.beat.len());
    }
}
