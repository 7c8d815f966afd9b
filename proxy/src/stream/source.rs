//! The upstream's half of a stream: removes the body's framing, finds where events end, counts them, and knows when the
//! upstream is idle and how it ended.
//!
//! A source does not know who gets its bytes: it gives them to `emit`, in order, as it was given them.

use super::millis::Millis;
use super::policy::Policy;
use crate::sse::{BOM, Boundary};
use crate::wire::body::Body;
use crate::wire::chunked::Piece;

/// How a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceEnd {
    /// The body is complete.
    Complete,
    /// The body goes on, and an event has ended where the source was to stop.
    Boundary,
    /// The connection ended before the body was complete.
    Broken,
    /// The body's framing is malformed.
    Malformed,
}

/// Removes the upstream's byte order mark after a heartbeat at byte 0: elsewhere it would become part of the first
/// field's name. Holds how many of its bytes have matched so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BomGuard {
    Off,
    Matched(u8),
}

/// One upstream. Holds no bytes of the stream, except trailers.
#[derive(Debug)]
pub(super) struct Source {
    body: Body,
    events: u64,
    bytes: u64,
    idle_limit: Millis,
    #[allow(clippy::box_collection, reason = "trailers are rare: a pointer in each stream, not a vector")]
    trailers: Option<Box<Vec<u8>>>,
    boundary: Boundary,
    identity: bool,
    bom_guard: BomGuard,
}

impl Source {
    /// An upstream whose response head has been read at `now`. `identity`: whether the body has no content coding, so
    /// that its events can be seen.
    pub(super) fn new(body: Body, identity: bool, policy: &Policy, now: Millis) -> Self {
        Self {
            body,
            events: 0,
            bytes: 0,
            idle_limit: now.within(policy.timeouts.idle),
            trailers: None,
            boundary: Boundary::default(),
            identity,
            bom_guard: BomGuard::Off,
        }
    }

    /// Takes bytes of the connection, and gives those of the body to `emit`. With `stop_between_events` it takes no more
    /// than the rest of the current event.
    #[inline]
    pub(super) fn read(
        &mut self,
        mut input: &[u8],
        stop_between_events: bool,
        policy: &Policy,
        now: Millis,
        mut emit: impl FnMut(&[u8]),
    ) -> Option<SourceEnd> {
        loop {
            match self.body.next(&mut input) {
                Ok(Some(Piece::Data(data))) if stop_between_events => {
                    if self.rest_of_event(data, policy, now, &mut emit) {
                        return Some(SourceEnd::Boundary);
                    }
                }
                Ok(Some(Piece::Data(data))) => self.data(data, policy, now, &mut emit),
                Ok(Some(Piece::Trailer(line))) => self.trailers.get_or_insert_default().extend_from_slice(line),
                Ok(Some(Piece::End)) => return Some(SourceEnd::Complete),
                Ok(None) => return self.body.is_complete().then_some(SourceEnd::Complete),
                Err(_) => return Some(SourceEnd::Malformed),
            }
        }
    }

    /// The connection ended in order.
    pub(super) fn closed(&self) -> SourceEnd {
        if self.body.may_end_here() { SourceEnd::Complete } else { SourceEnd::Broken }
    }

    /// Nothing more is read: gives what was held back to `emit`, and returns the trailer section.
    pub(super) fn finish(&mut self, emit: impl FnMut(&[u8])) -> Option<Vec<u8>> {
        self.release_bom(0, emit);
        self.trailers.take().map(|section| *section)
    }

    /// Whether what is inserted here stands between two events. Never where events cannot be seen.
    pub(super) fn is_between_events(&self) -> bool {
        self.identity && self.boundary.is_boundary()
    }

    /// Whether events can be seen.
    pub(super) fn sees_events(&self) -> bool {
        self.identity
    }

    /// A heartbeat stands before the next byte.
    pub(super) fn heartbeat_inserted(&mut self) {
        if self.boundary.is_start() && self.bom_guard == BomGuard::Off {
            self.bom_guard = BomGuard::Matched(0);
        }
    }

    /// The upstream was active at `now`: it has sent something, read or not.
    pub(super) fn active(&mut self, policy: &Policy, now: Millis) {
        self.idle_limit = now.within(policy.timeouts.idle);
    }

    /// Follows another policy from `now` on: the silence so far counts.
    pub(super) fn set_policy(&mut self, old: &Policy, new: &Policy, now: Millis) {
        self.idle_limit = self.last_active(old).unwrap_or(now).within(new.timeouts.idle);
    }

    /// When the upstream was active last, where the idle timeout knows it.
    pub(super) fn last_active(&self, policy: &Policy) -> Option<Millis> {
        self.idle_limit.if_set().zip(policy.timeouts.idle).map(|(due, limit)| due.before(limit))
    }

    /// The upstream need not be active any more.
    pub(super) fn stop(&mut self) {
        self.idle_limit = Millis::NEVER;
    }

    /// When the upstream is idle.
    pub(super) fn deadline(&self) -> Millis {
        self.idle_limit
    }

    /// Blocks of field lines that a blank line ended.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Body bytes, without framing.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    fn data(&mut self, data: &[u8], policy: &Policy, now: Millis, mut emit: impl FnMut(&[u8])) {
        self.bytes += data.len() as u64;
        if !self.identity {
            self.active(policy, now);
            return emit(data);
        }
        let Some(data) = self.guard_bom(data, &mut emit) else { return self.active(policy, now) };
        let seen = self.boundary.scan(data);
        self.events += u64::from(seen.events);
        if seen.fields || !policy.idle_ignores_comments {
            self.active(policy, now);
        }
        emit(data);
    }

    /// Takes bytes up to the end of the current event. Returns whether it ended.
    #[cold]
    fn rest_of_event(&mut self, data: &[u8], policy: &Policy, now: Millis, mut emit: impl FnMut(&[u8])) -> bool {
        self.bytes += data.len() as u64;
        let Some(data) = self.guard_bom(data, &mut emit) else {
            self.active(policy, now);
            return false;
        };
        for (at, byte) in data.iter().enumerate() {
            if self.boundary.is_boundary() {
                emit(&data[..at]);
                self.bytes -= (data.len() - at) as u64;
                return true;
            }
            self.events += u64::from(self.boundary.scan(std::slice::from_ref(byte)).events);
        }
        emit(data);
        self.boundary.is_boundary()
    }

    /// Drops a byte order mark that is no longer at byte 0. `None`: nothing is left to give yet.
    fn guard_bom<'a>(&mut self, data: &'a [u8], emit: impl FnMut(&[u8])) -> Option<&'a [u8]> {
        match self.bom_guard {
            BomGuard::Off => Some(data),
            BomGuard::Matched(matched) => self.match_bom(usize::from(matched), data, emit),
        }
    }

    #[cold]
    fn match_bom<'a>(&mut self, matched: usize, data: &'a [u8], emit: impl FnMut(&[u8])) -> Option<&'a [u8]> {
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
        self.release_bom(fresh, emit);
        Some(rest)
    }

    /// Gives out bytes that were held back as a possible byte order mark and are not one.
    fn release_bom(&mut self, fresh: usize, mut emit: impl FnMut(&[u8])) {
        if let BomGuard::Matched(matched) = self.bom_guard {
            self.bom_guard = BomGuard::Off;
            let held = &BOM[..usize::from(matched) + fresh];
            self.boundary.scan(held);
            emit(held);
        }
    }
}
