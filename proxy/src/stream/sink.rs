//! The client's half of a stream: frames what is written, sends heartbeats, limits how long a client may take nothing,
//! and ends the body.
//!
//! A sink does not know where its bytes come from. Whoever owns it writes what it returns, reports with [`Sink::wrote`],
//! and says whether a heartbeat may stand after what was written last.

use std::time::Duration;

use super::millis::Millis;
use super::policy::Policy;
use crate::wire::{chunked, trailers};

/// How long writing the last bytes of an ended body may take, if the route sets no write timeout.
pub(super) const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// The pause between a broken body's last bytes and the signal that it is broken. Clients and proxies in front drop
/// bytes that they have not passed on when they see the signal.
pub(super) const BREAK_PAUSE: Duration = Duration::from_millis(500);

/// The resolution of the clock.
const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1);

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

/// What a sink's deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkDeadline {
    /// The client has taken nothing for too long: [`Sink::abandon`].
    Write,
    /// A heartbeat is due: [`Sink::heartbeat`].
    Heartbeat,
    /// The broken end is to be signalled: [`Sink::signal_break`].
    Break,
}

/// How far the client's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Ended in order.
    Complete,
    /// Ended before it was complete; the client is still to be shown that.
    Breaking,
    /// The client has been shown that its body is incomplete, or the transport shows it.
    Broken,
    /// Nothing more is written.
    Abandoned,
}

/// One client. Holds no bytes of the stream.
#[derive(Debug)]
pub(super) struct Sink {
    heartbeats: u64,
    /// Set while bytes wait for the client.
    write_limit: Millis,
    /// When the next heartbeat is due; in a body that breaks, when that is signalled. Set only while nothing waits.
    due: Millis,
    framing: Framing,
    blocked: bool,
    state: State,
}

impl Sink {
    /// A client whose response head has been written at `now`.
    pub(super) fn new(framing: Framing, between_events: bool, policy: &Policy, now: Millis) -> Self {
        let (write_limit, due) = (Millis::NEVER, heartbeat_due(between_events, policy, now));
        Self { heartbeats: 0, write_limit, due, framing, blocked: false, state: State::Open }
    }

    /// Appends body bytes as the client gets them.
    pub(super) fn encode(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.framing {
            Framing::Chunked => chunked::encode(data, out),
            Framing::Plain | Framing::Http2 => out.extend_from_slice(data),
        }
    }

    /// Bytes were written: `progress` if at least one was or none had to be, `rest` if some are still pending.
    /// `between_events`: whether a heartbeat may follow them.
    pub(super) fn wrote(&mut self, progress: bool, rest: bool, between_events: bool, policy: &Policy, now: Millis) {
        if rest {
            if progress || !self.blocked {
                self.write_limit = self.write_deadline(policy, now);
            }
            self.due = Millis::NEVER;
        } else {
            self.write_limit = Millis::NEVER;
            match self.state {
                State::Open => self.due = heartbeat_due(between_events, policy, now),
                State::Breaking => self.due = now.after(BREAK_PAUSE),
                State::Complete | State::Broken | State::Abandoned => {}
            }
        }
        self.blocked = rest;
    }

    /// Follows another policy from `now` on: the time without progress, or without a write, counts.
    pub(super) fn set_policy(&mut self, old: &Policy, new: &Policy, between_events: bool, now: Millis) {
        if self.state != State::Open {
            return;
        }
        let since = |due: Millis, limit: Option<Duration>| {
            due.if_set().zip(limit).map_or(now, |(due, limit)| due.before(limit))
        };
        if self.blocked {
            self.write_limit = since(self.write_limit, old.timeouts.write).within(new.timeouts.write);
        } else {
            let interval = old.heartbeat.as_ref().map(|heartbeat| heartbeat.interval);
            self.due = heartbeat_due(between_events, new, since(self.due, interval));
        }
    }

    /// Appends a heartbeat, if one may stand here. Returns whether it did.
    pub(super) fn heartbeat(&mut self, between_events: bool, policy: &Policy, out: &mut Vec<u8>) -> bool {
        self.due = Millis::NEVER;
        let may = between_events && !self.blocked && self.state == State::Open;
        let Some(heartbeat) = policy.heartbeat.as_ref().filter(|_| may) else { return false };
        self.heartbeats += 1;
        self.encode(heartbeat.heartbeat.bytes(), out);
        true
    }

    /// Ends the body in order, with the trailer section of the upstream if there is one.
    pub(super) fn complete(&mut self, section: Option<&[u8]>, policy: &Policy, now: Millis, out: &mut Vec<u8>) {
        if self.framing == Framing::Chunked {
            match section {
                Some(section) => trailers::encode_last_chunk(section, out),
                None => out.extend_from_slice(chunked::LAST_CHUNK),
            }
        }
        self.end(State::Complete, policy, now);
    }

    /// Ends the body before it is complete. The client is shown that after a pause, unless the transport does.
    pub(super) fn cut(&mut self, policy: &Policy, now: Millis) {
        let state = if self.framing == Framing::Http2 { State::Broken } else { State::Breaking };
        self.end(state, policy, now);
    }

    fn end(&mut self, state: State, policy: &Policy, now: Millis) {
        self.state = state;
        self.write_limit = if self.blocked { self.write_deadline(policy, now) } else { Millis::NEVER };
        let signals = state == State::Breaking && !self.blocked;
        self.due = if signals { now.after(BREAK_PAUSE) } else { Millis::NEVER };
    }

    /// Shows the client that its body is incomplete, where bytes can.
    pub(super) fn signal_break(&mut self, out: &mut Vec<u8>) {
        self.due = Millis::NEVER;
        self.state = State::Broken;
        if self.framing == Framing::Chunked {
            out.extend_from_slice(chunked::BROKEN_CHUNK);
        }
    }

    /// Ends the body with nothing more to write.
    pub(super) fn abandon(&mut self) {
        self.state = State::Abandoned;
        self.write_limit = Millis::NEVER;
        self.due = Millis::NEVER;
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Millis {
        self.write_limit.min(self.due)
    }

    /// What has expired at `now`; the write limit first.
    pub(super) fn expired(&self, now: Millis) -> Option<SinkDeadline> {
        if self.write_limit <= now {
            Some(SinkDeadline::Write)
        } else if self.due <= now {
            Some(if self.state == State::Open { SinkDeadline::Heartbeat } else { SinkDeadline::Break })
        } else {
            None
        }
    }

    /// Whether bytes wait for the client.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether the body ended in order.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether the broken end is still to be signalled.
    pub(super) fn is_breaking(&self) -> bool {
        self.state == State::Breaking
    }

    /// Whether nothing more is to be written, pending bytes included.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state == State::Abandoned
    }

    /// Heartbeats written.
    pub(super) fn heartbeats(&self) -> u64 {
        self.heartbeats
    }

    fn write_deadline(&self, policy: &Policy, now: Millis) -> Millis {
        let limit = policy.timeouts.write;
        now.within(if self.state == State::Open { limit } else { limit.or(Some(FLUSH_LIMIT)) })
    }
}

fn heartbeat_due(between_events: bool, policy: &Policy, now: Millis) -> Millis {
    let heartbeat = policy.heartbeat.as_ref().filter(|_| between_events);
    // With an interval of 0 it would always be due.
    now.within(heartbeat.map(|heartbeat| heartbeat.interval.max(MIN_HEARTBEAT_INTERVAL)))
}
