//! The state machine of one stream: what is written when, and when it ends.
//!
//! The driver does the I/O. After each call that appends to `out`, it writes those bytes (after anything still pending)
//! and reports with [`Pair::wrote`]. It reads the upstream only while [`Pair::wants_upstream`].

use std::sync::Arc;
use std::time::Duration;

use super::deadlines::{Deadline, Deadlines, Millis};
use super::end::EndReason;
use super::policy::Policy;
use crate::sse::{BOM, Boundary};
use crate::wire::body::Body;
use crate::wire::chunked::{self, Piece};
use crate::wire::trailers;

/// How long a stream that should end at an event boundary may take to reach one, unless a shorter limit is set.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How long writing the last bytes of an ended stream may take, if the route sets no write timeout.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// The pause between a broken stream's last bytes and the signal that it is broken. Clients and proxies in front drop
/// bytes that they have not passed on when they see the signal.
pub(super) const BREAK_PAUSE: Duration = Duration::from_millis(500);

/// How body bytes are framed towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1 chunked transfer coding.
    Chunked,
    /// Unframed: HTTP/1.0, where the body ends with the connection.
    Plain,
    /// Unframed: the HTTP/2 transport frames them and signals a broken end.
    Http2,
}

/// The parameters of a stream, known once both heads have been forwarded.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The rules of its route.
    pub policy: Arc<Policy>,
    /// How the upstream's body is delimited.
    pub body: Body,
    /// How the client's body is framed.
    pub framing: Framing,
    /// Whether the body has no content coding, so that its events can be parsed. If it has one, bytes pass through and
    /// no heartbeat is sent.
    pub identity: bool,
    /// Uniform in 0..1; selects this stream's jitter of the lifetime.
    pub random: f64,
}

/// Totals of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks of field lines that a blank line ended.
    pub events: u64,
    /// Body bytes from the upstream, without its framing.
    pub bytes: u64,
    /// Heartbeats written.
    pub heartbeats: u64,
}

/// What one call added to the [`Counts`].
pub type Progress = Counts;

/// Removes the upstream's byte order mark after a heartbeat at byte 0: elsewhere it would become part of the first
/// field's name. Holds how many of its bytes have matched so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BomGuard {
    Off,
    Matched(u8),
}

/// One stream's state. Holds no bytes of the stream, except trailers.
#[derive(Debug)]
pub struct Pair {
    policy: Arc<Policy>,
    body: Body,
    deadlines: Deadlines,
    counts: Counts,
    #[allow(clippy::box_collection, reason = "trailers are rare: a pointer in each stream, not a vector")]
    trailers: Option<Box<Vec<u8>>>,
    boundary: Boundary,
    framing: Framing,
    identity: bool,
    bom_guard: BomGuard,
    blocked: bool,
    closing: Option<EndReason>,
    ended: Option<EndReason>,
    clean: bool,
    abandoned: bool,
    /// Whether the broken end has been signalled to the client.
    break_signalled: bool,
}

impl Pair {
    /// Starts a stream whose response head has been written at `now`.
    pub fn new(opening: Opening, now: Millis) -> Self {
        let mut pair = Self {
            body: opening.body,
            deadlines: Deadlines::default(),
            counts: Counts::default(),
            trailers: None,
            boundary: Boundary::default(),
            framing: opening.framing,
            identity: opening.identity,
            bom_guard: BomGuard::Off,
            blocked: false,
            closing: None,
            ended: None,
            clean: false,
            abandoned: false,
            break_signalled: false,
            policy: opening.policy,
        };
        let timeouts = pair.policy.timeouts;
        pair.deadlines.set_within(Deadline::Idle, now, timeouts.idle);
        pair.deadlines.set_within(Deadline::Close, now, timeouts.jittered_lifetime(opening.random));
        pair.arm_heartbeat(now);
        pair
    }

    /// Takes bytes read from the upstream, framing included.
    pub fn upstream_data(&mut self, mut input: &[u8], now: Millis, out: &mut Vec<u8>) -> Progress {
        let before = self.counts;
        while self.ended.is_none() {
            match self.body.next(&mut input) {
                Ok(Some(Piece::Data(data))) => self.body_data(data, now, out),
                Ok(Some(Piece::Trailer(line))) => self.trailers.get_or_insert_default().extend_from_slice(line),
                Ok(Some(Piece::End)) => self.end_clean(EndReason::UpstreamEnd, now, out),
                Ok(None) => break,
                Err(_) => self.end(EndReason::UpstreamProtocol, now),
            }
        }
        if self.ended.is_none() && self.body.is_complete() {
            self.end_clean(EndReason::UpstreamEnd, now, out);
        }
        self.counts.since(before)
    }

    /// The upstream closed its side in order.
    pub fn upstream_closed(&mut self, now: Millis, out: &mut Vec<u8>) {
        if self.body.may_end_here() {
            self.end_clean(EndReason::UpstreamEnd, now, out);
        } else {
            self.end(EndReason::UpstreamBroken, now);
        }
    }

    /// The upstream's connection failed.
    pub fn upstream_failed(&mut self, now: Millis) {
        self.end(EndReason::UpstreamBroken, now);
    }

    /// The client closed its connection, or the connection failed for a reason other than a timeout.
    pub fn client_gone(&mut self) {
        self.abandon(EndReason::ClientGone);
    }

    /// The kernel timed the connection out: the client acknowledged nothing for the write timeout.
    pub fn client_stalled(&mut self) {
        self.abandon(EndReason::WriteTimeout);
    }

    /// The client exceeded the limit on what it may send on a running stream.
    pub fn client_floods(&mut self) {
        self.abandon(EndReason::ClientFlood);
    }

    /// The driver wrote: `progress` if at least one byte was written or none had to be, `rest` if some are still
    /// pending.
    pub fn wrote(&mut self, progress: bool, rest: bool, now: Millis) {
        if rest {
            if progress || !self.blocked {
                let limit = match self.ended {
                    Some(_) => self.policy.timeouts.write.or(Some(FLUSH_LIMIT)),
                    None => self.policy.timeouts.write,
                };
                self.deadlines.set_within(Deadline::Write, now, limit);
            }
            self.deadlines.clear(Deadline::Heartbeat);
            if self.ended.is_some() {
                self.deadlines.clear(Deadline::Close);
            }
        } else {
            self.deadlines.clear(Deadline::Write);
            if self.breaks_later() {
                self.deadlines.set(Deadline::Close, now.after(BREAK_PAUSE));
            }
            if self.ended.is_none() {
                self.arm_heartbeat(now);
                if self.closing.is_some() && self.at_boundary() {
                    self.deadlines.set(Deadline::Close, now);
                }
            }
        }
        self.blocked = rest;
    }

    /// Ends the stream at its next event boundary, or after `limit`. A second call can only shorten the limit. A stream
    /// with a content coding ends at once and broken: its boundaries are unknown, and the client has to see that its
    /// body is incomplete.
    pub fn close(&mut self, reason: EndReason, limit: Duration, now: Millis) {
        if self.ended.is_some() {
            return;
        }
        if !self.identity {
            return self.end(reason, now);
        }
        self.closing.get_or_insert(reason);
        self.deadlines.set_earlier(Deadline::CloseLimit, now.after(limit));
        if !self.blocked && self.at_boundary() {
            self.deadlines.set(Deadline::Close, now);
        } else {
            self.deadlines.clear(Deadline::Close);
        }
    }

    /// Whether the idle timeout has expired while the upstream was not read because the client is behind. Ask before writing
    /// what is pending: afterwards the client may not be behind any more. A driver that finds unread bytes reports them with
    /// [`Pair::upstream_waits`] before the next [`Pair::tick`].
    pub fn suspects_idle(&self, now: Millis) -> bool {
        self.blocked && self.ended.is_none() && self.deadlines.has_expired(Deadline::Idle, now)
    }

    /// The upstream has sent bytes that are not read yet because the client is behind: it is not idle.
    pub fn upstream_waits(&mut self, now: Millis) {
        self.active(now);
    }

    /// Handles every deadline that has expired at `now`.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<u8>) -> Progress {
        let before = self.counts;
        while let Some(expired) = self.deadlines.expired(now) {
            match expired {
                Deadline::Write => self.abandon(EndReason::WriteTimeout),
                // The client is behind, and there is no time left to wait for it.
                Deadline::CloseLimit if self.blocked => self.abandon(self.closing.unwrap_or(EndReason::Lifetime)),
                Deadline::CloseLimit => self.end(self.closing.unwrap_or(EndReason::Lifetime), now),
                Deadline::Idle => self.end(EndReason::IdleTimeout, now),
                Deadline::Close if self.ended.is_some() => self.signal_break(out),
                Deadline::Close if self.at_boundary() && !self.blocked => {
                    self.end_clean(self.closing.unwrap_or(EndReason::Lifetime), now, out);
                }
                Deadline::Close => self.close(EndReason::Lifetime, CLOSE_LIMIT, now),
                Deadline::Heartbeat => self.heartbeat(out),
            }
        }
        self.counts.since(before)
    }

    /// When to call [`Pair::tick`] next.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.next()
    }

    /// Whether the upstream may be read now: never while the client is behind.
    pub fn wants_upstream(&self) -> bool {
        !self.blocked && self.ended.is_none()
    }

    /// Why the stream ended, once it has. Bytes already returned are still to be written, unless the client is
    /// [abandoned](Self::abandoned).
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Whether nothing more is to be written to the client, pending bytes included.
    pub fn abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether the ended stream's body was closed in order, so that the client sees a complete response.
    pub fn ended_clean(&self) -> bool {
        self.clean
    }

    /// Whether the broken end is still to be signalled to the client, at the next deadline.
    pub fn breaks_later(&self) -> bool {
        let broken = self.ended.is_some() && !self.clean && !self.abandoned;
        broken && !self.break_signalled && self.framing != Framing::Http2
    }

    /// The totals so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn at_boundary(&self) -> bool {
        self.identity && self.boundary.is_boundary()
    }

    fn body_data(&mut self, data: &[u8], now: Millis, out: &mut Vec<u8>) {
        self.counts.bytes += data.len() as u64;
        if !self.identity {
            self.active(now);
            self.emit(data, out);
            return;
        }
        let data = match self.guard_bom(data, out) {
            Some(data) => data,
            None => return self.active(now),
        };
        if self.closing.is_some() {
            return self.body_data_closing(data, now, out);
        }
        let seen = self.boundary.scan(data);
        self.counts.events += u64::from(seen.events);
        if seen.fields || !self.policy.idle_ignores_comments {
            self.active(now);
        }
        self.emit(data, out);
    }

    /// Forwards the rest of the current event, and ends the stream at its boundary.
    fn body_data_closing(&mut self, data: &[u8], now: Millis, out: &mut Vec<u8>) {
        for (at, byte) in data.iter().enumerate() {
            if self.boundary.is_boundary() {
                self.emit(&data[..at], out);
                self.counts.bytes -= (data.len() - at) as u64;
                return self.end_at_boundary(now, out);
            }
            self.counts.events += u64::from(self.boundary.scan(std::slice::from_ref(byte)).events);
        }
        self.emit(data, out);
        if self.boundary.is_boundary() {
            self.end_at_boundary(now, out);
        }
    }

    fn end_at_boundary(&mut self, now: Millis, out: &mut Vec<u8>) {
        let reason = self.closing.unwrap_or(EndReason::Lifetime);
        self.end_clean(reason, now, out);
    }

    /// Drops a byte order mark that is no longer at byte 0. `None`: nothing is left to forward yet.
    fn guard_bom<'a>(&mut self, data: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let BomGuard::Matched(matched) = self.bom_guard else { return Some(data) };
        let matched = usize::from(matched);
        let fresh = BOM[matched..].iter().zip(data).take_while(|(bom, byte)| bom == byte).count();
        let (_, rest) = data.split_at(fresh);
        if matched + fresh == BOM.len() {
            self.bom_guard = BomGuard::Off;
            self.boundary.scan(&BOM);
            return (!rest.is_empty()).then_some(rest);
        }
        if rest.is_empty() {
            self.bom_guard = BomGuard::Matched((matched + fresh) as u8);
            return None;
        }
        self.release_bom(out, fresh);
        Some(rest)
    }

    /// Forwards bytes that were held back as a possible byte order mark and are not one.
    fn release_bom(&mut self, out: &mut Vec<u8>, fresh: usize) {
        if let BomGuard::Matched(matched) = self.bom_guard {
            self.bom_guard = BomGuard::Off;
            let held = &BOM[..usize::from(matched) + fresh];
            self.boundary.scan(held);
            self.emit(held, out);
        }
    }

    fn active(&mut self, now: Millis) {
        self.deadlines.set_within(Deadline::Idle, now, self.policy.timeouts.idle);
    }

    fn arm_heartbeat(&mut self, now: Millis) {
        let interval = self.policy.heartbeat.as_ref().map(|heartbeat| heartbeat.interval);
        self.deadlines.set_within(Deadline::Heartbeat, now, interval.filter(|_| self.at_boundary()));
    }

    fn heartbeat(&mut self, out: &mut Vec<u8>) {
        self.deadlines.clear(Deadline::Heartbeat);
        let policy = self.policy.clone();
        let Some(heartbeat) = policy.heartbeat.as_ref().filter(|_| self.at_boundary() && !self.blocked) else {
            return;
        };
        if self.boundary.is_start() && self.bom_guard == BomGuard::Off {
            self.bom_guard = BomGuard::Matched(0);
        }
        self.counts.heartbeats += 1;
        self.emit(heartbeat.heartbeat.bytes(), out);
    }

    fn emit(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.framing {
            Framing::Chunked => chunked::encode(data, out),
            Framing::Plain | Framing::Http2 => out.extend_from_slice(data),
        }
    }

    fn end_clean(&mut self, reason: EndReason, now: Millis, out: &mut Vec<u8>) {
        if self.ended.is_some() {
            return;
        }
        self.release_bom(out, 0);
        if self.framing == Framing::Chunked {
            match self.trailers.take() {
                Some(section) => trailers::encode_last_chunk(&section, out),
                None => out.extend_from_slice(chunked::LAST_CHUNK),
            }
        }
        self.clean = true;
        self.end(reason, now);
    }

    fn end(&mut self, reason: EndReason, now: Millis) {
        if self.ended.is_none() {
            self.ended = Some(reason);
            self.deadlines.clear_all();
            if self.blocked {
                self.deadlines.set_within(Deadline::Write, now, self.policy.timeouts.write.or(Some(FLUSH_LIMIT)));
            } else if self.breaks_later() {
                self.deadlines.set(Deadline::Close, now.after(BREAK_PAUSE));
            }
        }
    }

    fn signal_break(&mut self, out: &mut Vec<u8>) {
        self.deadlines.clear(Deadline::Close);
        self.break_signalled = true;
        if self.framing == Framing::Chunked {
            out.extend_from_slice(chunked::BROKEN_CHUNK);
        }
    }

    /// Ends the stream with nothing more to write. An ended stream that still had bytes to write ends for this reason
    /// instead.
    fn abandon(&mut self, reason: EndReason) {
        // A failed connection fails every later operation, too: the first failure is the reason.
        if !self.abandoned && (self.ended.is_none() || self.blocked) {
            self.ended = Some(reason);
        }
        self.clean = false;
        self.abandoned = true;
        self.deadlines.clear_all();
    }
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            events: self.events - before.events,
            bytes: self.bytes.saturating_sub(before.bytes),
            heartbeats: self.heartbeats - before.heartbeats,
        }
    }
}
