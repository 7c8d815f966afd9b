//! One upstream and one client, without a copy between them: what is written when, and when and why the stream ends.
//!
//! Joins a [`Source`] and a [`Sink`] and adds what concerns both: the lifetime, the end at an event boundary, the reason.
//!
//! The driver does the I/O. After each call that appends to `out`, it writes those bytes (after anything still pending)
//! and reports with [`Pair::wrote`]. It reads the upstream only while [`Pair::wants_upstream`].

use std::sync::Arc;
use std::time::Duration;

use super::drain::Drain;
use super::end::EndReason;
use super::millis::Millis;
use super::policy::Policy;
use super::sink::{Framing, Sink, SinkDeadline};
use super::source::{Source, SourceEnd};
use crate::wire::body::Body;

/// How long a stream that should end at an event boundary may take to reach one, unless a shorter limit is set.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

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
    /// A lifetime that holds in place of the policy's, without jitter; zero: none.
    pub lifetime: Option<Duration>,
}

/// Totals of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

/// What has expired, in order of priority: if several have, the first is handled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expired {
    /// The client has taken nothing for too long.
    Write,
    /// The stream should end, and is at an event boundary or has not reached one in time.
    Close,
    /// The upstream has been silent for too long.
    Idle,
    /// The stream should end at the next event boundary.
    Lifetime,
    /// A heartbeat is due.
    Heartbeat,
    /// The client is to be shown that its body is incomplete.
    Break,
}

/// What `close_at` stands for while the stream is not closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    /// The lifetime of the route.
    Lifetime,
    /// A lifetime that the backend has set: no other policy replaces it.
    OwnLifetime,
    /// The stream's moment in a drain.
    Drain,
}

/// One stream's state. Holds no bytes of the stream, except trailers.
#[derive(Debug)]
pub struct Pair {
    policy: Arc<Policy>,
    source: Source,
    sink: Sink,
    /// When the lifetime ends; once the stream is closing, when it ends wherever it is.
    close_at: Millis,
    /// The stream ends at its next event boundary, for this reason.
    closing: Option<EndReason>,
    ended: Option<EndReason>,
    planned: Planned,
    /// The `retry:` field that the stream ends with at its lifetime or in a drain; 0 for none.
    retry_ms: u32,
}

impl Pair {
    /// Starts a stream whose response head has been written at `now`.
    pub fn new(opening: Opening, now: Millis) -> Self {
        let Opening { policy, body, framing, identity, random, lifetime } = opening;
        let source = Source::new(body, identity, &policy, now);
        let sink = Sink::new(framing, source.is_between_events(), &policy, now);
        let close_at = now.within(policy.timeouts.jittered_lifetime(random));
        let retry_ms = lifetime_retry(&policy, random);
        let planned = Planned::Lifetime;
        let mut pair = Self { policy, source, sink, close_at, closing: None, ended: None, planned, retry_ms };
        if let Some(lifetime) = lifetime {
            pair.planned = Planned::OwnLifetime;
            pair.close_at = now.within(Some(lifetime).filter(|lifetime| !lifetime.is_zero()));
        }
        pair
    }

    /// Takes bytes read from the upstream, framing included.
    pub fn upstream_data(&mut self, input: &[u8], now: Millis, out: &mut Vec<u8>) -> Progress {
        if self.ended.is_some() {
            return Progress::default();
        }
        let (events, bytes) = (self.source.events(), self.source.bytes());
        let Self { policy, source, sink, .. } = self;
        let end = source.read(input, self.closing.is_some(), policy, now, |data| sink.encode(data, out));
        if let Some(end) = end {
            self.source_ended(end, now, out);
        }
        Progress { events: self.source.events() - events, bytes: self.source.bytes() - bytes, heartbeats: 0 }
    }

    /// The upstream closed its side in order.
    pub fn upstream_closed(&mut self, now: Millis, out: &mut Vec<u8>) {
        self.source_ended(self.source.closed(), now, out);
    }

    /// The upstream's connection failed.
    pub fn upstream_failed(&mut self, now: Millis) {
        self.end_broken(EndReason::UpstreamBroken, now);
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
        let between_events = self.source.is_between_events();
        self.sink.wrote(progress, rest, between_events, &self.policy, now);
        if self.closing.is_some() && self.ended.is_none() {
            self.close_between_events(now);
        }
    }

    /// Ends the stream at its next event boundary, or after `limit`. A second call can only shorten the limit. A stream
    /// with a content coding ends at once and broken: its boundaries are unknown, and the client has to see that its
    /// body is incomplete.
    pub fn close(&mut self, reason: EndReason, limit: Duration, now: Millis) {
        if self.ended.is_some() {
            return;
        }
        if !self.source.sees_events() {
            return self.end_broken(reason, now);
        }
        let by = now.after(limit);
        self.close_at = if self.closing.is_some() { by.min(self.close_at) } else { by };
        self.closing.get_or_insert(reason);
        self.close_between_events(now);
    }

    /// The rules that the stream follows.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Follows another policy from `now` on. What has been waited for already counts. A lifetime that has passed ends the stream
    /// within the time by which jitter may shorten it. `random` is uniform in 0..1.
    pub fn set_policy(&mut self, policy: Arc<Policy>, opened: Millis, random: f64, now: Millis) {
        if self.ended.is_some() {
            return;
        }
        let policy = match self.policy.backend_heartbeat {
            Some(interval) => Arc::new(policy.with_heartbeat_of_backend(interval)),
            None => policy,
        };
        let old = std::mem::replace(&mut self.policy, policy);
        let new = &*self.policy;
        self.source.set_policy(&old, new, now);
        self.sink.set_policy(&old, new, self.source.is_between_events(), now);
        let lifetime = |policy: &Policy| (policy.timeouts.lifetime, policy.timeouts.lifetime_jitter);
        if self.closing.is_none() && self.planned == Planned::Lifetime && lifetime(&old) != lifetime(new) {
            let jittered = new.timeouts.jittered_lifetime(random);
            let jitter = new.timeouts.lifetime.zip(jittered).map_or(Duration::ZERO, |(whole, part)| whole - part);
            self.close_at = opened.within(jittered);
            if self.close_at <= now {
                self.close_at = now.after(jitter);
            }
        }
        if self.planned != Planned::Drain {
            self.retry_ms = lifetime_retry(new, random);
        }
    }

    /// The time since the upstream was active last, where the idle timeout knows it.
    pub fn silence(&self, now: Millis) -> Option<Duration> {
        self.source.last_active(&self.policy).map(|at| Duration::from_millis(now.0.saturating_sub(at.0)))
    }

    /// Obeys a drain: gives the stream its moment on the first call, and ends it at its next event boundary from then on. To be
    /// called before each [`Pair::tick`] during a drain. `random` is uniform in 0..1.
    #[cold]
    pub fn drain(&mut self, drain: &Drain, random: impl FnOnce() -> f64, now: Millis) {
        if self.ended.is_some() {
            return;
        }
        if self.planned != Planned::Drain && self.closing.is_none() {
            let random = random();
            self.planned = Planned::Drain;
            self.close_at = self.close_at.min(drain.moment(random, now));
            self.retry_ms = drain.retry.map_or(0, |retry| retry.pick(other_random(random)));
        }
        if self.closing.is_some() || self.close_at <= now || drain.spread_until <= now {
            self.close(EndReason::Drain, Duration::from_millis(drain.cut_at.0.saturating_sub(now.0)), now);
        }
    }

    /// Whether the idle timeout has expired while the upstream was not read because the client is behind. Ask before writing
    /// what is pending: afterwards the client may not be behind any more. A driver that finds unread bytes reports them with
    /// [`Pair::upstream_waits`] before the next [`Pair::tick`].
    pub fn suspects_idle(&self, now: Millis) -> bool {
        self.sink.is_blocked() && self.ended.is_none() && self.source.deadline() <= now
    }

    /// The upstream has sent bytes that are not read yet because the client is behind: it is not idle.
    pub fn upstream_waits(&mut self, now: Millis) {
        if self.ended.is_none() {
            self.source.active(&self.policy, now);
        }
    }

    /// Handles every deadline that has expired at `now`.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<u8>) -> Progress {
        let before = self.sink.heartbeats();
        while let Some(expired) = self.expired(now) {
            match expired {
                Expired::Write => self.abandon(EndReason::WriteTimeout),
                // The client is behind, and there is no time left to wait for it.
                Expired::Close if self.sink.is_blocked() => self.abandon(self.closing_reason()),
                Expired::Close if self.source.is_between_events() => self.end_between_events(now, out),
                Expired::Close => self.end_broken(self.closing_reason(), now),
                Expired::Idle => self.end_broken(EndReason::IdleTimeout, now),
                Expired::Lifetime => self.close(self.planned_reason(), CLOSE_LIMIT, now),
                Expired::Heartbeat => self.heartbeat(out),
                Expired::Break => self.sink.signal_break(out),
            }
        }
        Progress { heartbeats: self.sink.heartbeats() - before, ..Progress::default() }
    }

    /// When to call [`Pair::tick`] next.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadline().if_set()
    }

    /// Whether the upstream may be read now: never while the client is behind.
    pub fn wants_upstream(&self) -> bool {
        !self.sink.is_blocked() && self.ended.is_none()
    }

    /// Why the stream ended, once it has. Bytes already returned are still to be written, unless the client is
    /// [abandoned](Self::abandoned).
    pub fn ended(&self) -> Option<EndReason> {
        self.ended
    }

    /// Whether nothing more is to be written to the client, pending bytes included.
    pub fn abandoned(&self) -> bool {
        self.sink.is_abandoned()
    }

    /// Whether the ended stream's body was closed in order, so that the client sees a complete response.
    pub fn ended_clean(&self) -> bool {
        self.sink.is_complete()
    }

    /// Whether the broken end is still to be signalled to the client, at the next deadline.
    pub fn breaks_later(&self) -> bool {
        self.sink.is_breaking()
    }

    /// The totals so far.
    pub fn counts(&self) -> Counts {
        Counts { events: self.source.events(), bytes: self.source.bytes(), heartbeats: self.sink.heartbeats() }
    }

    fn deadline(&self) -> Millis {
        self.source.deadline().min(self.sink.deadline()).min(self.close_at)
    }

    fn expired(&self, now: Millis) -> Option<Expired> {
        if self.deadline() > now {
            return None;
        }
        let closes = self.close_at <= now;
        match self.sink.expired(now) {
            Some(SinkDeadline::Write) => Some(Expired::Write),
            _ if closes && self.closing.is_some() => Some(Expired::Close),
            _ if self.source.deadline() <= now => Some(Expired::Idle),
            _ if closes => Some(Expired::Lifetime),
            Some(SinkDeadline::Heartbeat) => Some(Expired::Heartbeat),
            Some(SinkDeadline::Break) => Some(Expired::Break),
            None => None,
        }
    }

    /// Ends a closing stream at the next tick, if it is at a boundary and the client has everything.
    fn close_between_events(&mut self, now: Millis) {
        if !self.sink.is_blocked() && self.source.is_between_events() {
            self.close_at = now;
        }
    }

    fn closing_reason(&self) -> EndReason {
        self.closing.unwrap_or(EndReason::Lifetime)
    }

    fn planned_reason(&self) -> EndReason {
        match self.planned {
            Planned::Lifetime | Planned::OwnLifetime => EndReason::Lifetime,
            Planned::Drain => EndReason::Drain,
        }
    }

    /// Ends a closing stream in order, with a `retry:` field where there is one to add.
    fn end_between_events(&mut self, now: Millis, out: &mut Vec<u8>) {
        let reason = self.closing_reason();
        if self.ended.is_none() && self.retry_ms > 0 && matches!(reason, EndReason::Lifetime | EndReason::Drain) {
            self.sink.encode(format!("retry: {}\n\n", self.retry_ms).as_bytes(), out);
        }
        self.end_clean(reason, now, out);
    }

    fn heartbeat(&mut self, out: &mut Vec<u8>) {
        if self.sink.heartbeat(self.source.is_between_events(), &self.policy, out) {
            self.source.heartbeat_inserted();
        }
    }

    fn source_ended(&mut self, end: SourceEnd, now: Millis, out: &mut Vec<u8>) {
        match end {
            SourceEnd::Complete => self.end_clean(EndReason::UpstreamEnd, now, out),
            SourceEnd::Boundary => self.end_between_events(now, out),
            SourceEnd::Broken => self.end_broken(EndReason::UpstreamBroken, now),
            SourceEnd::Malformed => self.end_broken(EndReason::UpstreamProtocol, now),
        }
    }

    fn end_clean(&mut self, reason: EndReason, now: Millis, out: &mut Vec<u8>) {
        if self.ended.is_none() {
            let section = self.source.finish(|data| self.sink.encode(data, out));
            self.sink.complete(section.as_deref(), &self.policy, now, out);
            self.end(reason);
        }
    }

    fn end_broken(&mut self, reason: EndReason, now: Millis) {
        if self.ended.is_none() {
            self.sink.cut(&self.policy, now);
            self.end(reason);
        }
    }

    /// Ends the stream with nothing more to write. An ended stream that still had bytes to write ends for this reason
    /// instead.
    fn abandon(&mut self, reason: EndReason) {
        // A failed connection fails every later operation, too: the first failure is the reason.
        if !self.sink.is_abandoned() && (self.ended.is_none() || self.sink.is_blocked()) {
            self.ended = Some(reason);
        }
        self.sink.abandon();
        self.end(self.ended.unwrap_or(reason));
    }

    fn end(&mut self, reason: EndReason) {
        self.ended = Some(reason);
        self.close_at = Millis::NEVER;
        self.source.stop();
    }
}

fn lifetime_retry(policy: &Policy, random: f64) -> u32 {
    policy.timeouts.lifetime_retry.map_or(0, |retry| retry.pick(other_random(random)))
}

/// Another random number, from the lower digits of one: streams that end together get different delays.
fn other_random(random: f64) -> f64 {
    (random * 4096.0).fract()
}
