//! One pass over a stream: read, ask the pair, write. Both drivers call it whenever a stream may make progress.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::observer::StreamGuard;
use super::registry::StreamRegistry;
use super::scratch::Scratch;
use super::socket::{Socket, would_block};
use super::start::Start;
use super::visit::{Changed, RunningStream, StreamId, Visit};
use crate::stream::{EndReason, Framing, Millis, Pair};

/// Reads in one call, before the stream yields to others.
const READS_PER_CALL: u32 = 16;

/// What a client may send on a running stream, at once and per second, in bytes. Legitimate clients send nothing but a
/// pipelined request or a keep-alive.
const CLIENT_BURST_BYTES: u64 = 64 * 1024;
const CLIENT_BYTES_PER_SECOND: u64 = 1024;

/// Added to the bytes of each read from a client: many small packets cost more than few large ones.
const CLIENT_READ_BYTES: u32 = 512;

/// A running stream, between two calls of [`ActiveStream::drive`].
pub(super) struct ActiveStream {
    pub(super) pair: Pair,
    guard: StreamGuard,
    /// Present only while the client is behind.
    pending: Option<Box<Unwritten>>,
    phase: Phase,
    framing: Framing,
    /// Bytes that the client has sent, plus the overhead of each read.
    client_bytes: u32,
}

/// Bytes not yet written to the client.
struct Unwritten {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Everything is written; the client's connection is being closed.
    Closing,
    /// The end has been counted and logged.
    Recorded,
}

/// What the driver does next with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DriveOutcome {
    /// Call again when a socket is ready or a deadline has expired.
    Wait,
    /// Call again soon: the stream yielded to others with work left.
    Again,
    /// The stream has ended: drop it.
    Done,
}

impl ActiveStream {
    /// Starts a stream and counts it as open. The first call of [`ActiveStream::drive`] writes the bytes that it starts
    /// with.
    pub(super) fn begin(start: Start, registry: Arc<StreamRegistry>, now: Millis) -> Self {
        let Start { opening, unsent: mut bytes, leftover, route, info } = start;
        let framing = opening.framing;
        let mut guard = StreamGuard::open(route, registry, info);
        let mut pair = Pair::new(opening, now);
        let progress = pair.upstream_data(&leftover, now, &mut bytes);
        guard.add_read(progress, progress.events, now);
        let pending = (!bytes.is_empty()).then(|| Box::new(Unwritten { bytes, written: 0 }));
        Self { pair, guard, pending, phase: Phase::Running, framing, client_bytes: 0 }
    }

    pub(super) fn guard(&mut self) -> &mut StreamGuard {
        &mut self.guard
    }

    /// Shows the stream to a visitor. `driver` and `key` name its place.
    pub(super) fn visit(&mut self, visit: &Visit, driver: u32, key: u32, now: Millis) -> Changed {
        let pending_bytes = self.pending.as_ref().map_or(0, |pending| pending.bytes.len() - pending.written);
        let id = StreamId { driver, key, opened: self.guard.opened() };
        let mut running = RunningStream {
            pair: &mut self.pair,
            route: self.guard.route(),
            info: self.guard.info(),
            id,
            pending_bytes,
            now,
            changed: Changed::default(),
        };
        visit.call(&mut running);
        running.changed
    }

    /// Receives the visits that are under way, for a stream that has a task.
    pub(super) fn receive_visits(&mut self, now: Millis) -> Changed {
        let mut changed = Changed::default();
        for visit in self.guard.visits() {
            let of_this = self.visit(&visit.0, 0, self.guard.task().unwrap_or_default(), now);
            changed = Changed { policy: changed.policy || of_this.policy, end: changed.end || of_this.end };
        }
        changed
    }

    /// Makes all progress that is possible now. Drops `upstream` as soon as the stream no longer needs it.
    pub(super) fn drive<C: Socket, U: Socket>(
        &mut self,
        client: &mut C,
        upstream: &mut Option<U>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> DriveOutcome {
        let client_unfinished = self.read_client(client, now, &mut scratch.input);
        let next = self.transfer(client, upstream, now, scratch);
        if client_unfinished && next == DriveOutcome::Wait { DriveOutcome::Again } else { next }
    }

    /// Acts on a drain and on deadlines, and moves bytes from the upstream to the client.
    fn transfer<C: Socket, U: Socket>(
        &mut self,
        client: &mut C,
        upstream: &mut Option<U>,
        now: Millis,
        scratch: &mut Scratch,
    ) -> DriveOutcome {
        if let Some(drain) = self.guard.draining() {
            self.pair.drain(&drain, fastrand::f64, now);
        }
        // The upstream was not read until now if the client was behind until now.
        let suspects_idle = self.pair.suspects_idle(now);
        // Before the deadlines: a client that has become writable is not stalled.
        self.write(client, now, &mut scratch.output);
        if suspects_idle && upstream.as_mut().is_some_and(Socket::has_unread) {
            self.pair.upstream_waits(now);
        }
        let progress = self.pair.tick(now, &mut scratch.output);
        self.guard.add(progress);
        self.write(client, now, &mut scratch.output);
        for _ in 0..READS_PER_CALL {
            let Some(source) = upstream.as_mut().filter(|_| self.pair.wants_upstream()) else {
                return self.end(client, upstream, now);
            };
            if self.read_upstream(source, now, scratch).is_break() {
                return DriveOutcome::Wait;
            }
            self.write(client, now, &mut scratch.output);
        }
        DriveOutcome::Again
    }

    /// Reads from the client to detect its close. Discards what it sends, up to a limit. Returns whether there may be
    /// more to read.
    fn read_client(&mut self, client: &mut impl Socket, now: Millis, input: &mut [u8]) -> bool {
        if self.phase == Phase::Closing {
            return false;
        }
        for _ in 0..READS_PER_CALL {
            match client.read(input) {
                Ok(0) => self.pair.client_gone(),
                Ok(count) if self.is_within_client_limit(count, now) => continue,
                Ok(_) => self.pair.client_floods(),
                Err(error) if would_block(&error) => {}
                Err(error) => self.client_failed(&error),
            }
            return false;
        }
        true
    }

    /// Whether `count` more bytes keep the client within its limit.
    fn is_within_client_limit(&mut self, count: usize, now: Millis) -> bool {
        let more = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(CLIENT_READ_BYTES);
        self.client_bytes = self.client_bytes.saturating_add(more);
        let seconds = now.0.saturating_sub(self.guard.opened().0) / 1000;
        u64::from(self.client_bytes)
            <= CLIENT_BURST_BYTES.saturating_add(seconds.saturating_mul(CLIENT_BYTES_PER_SECOND))
    }

    fn client_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::TimedOut => self.pair.client_stalled(),
            _ => self.pair.client_gone(),
        }
    }

    /// Passes one read from the upstream through the pair into the output. Breaks when there is nothing to read.
    fn read_upstream(&mut self, upstream: &mut impl Socket, now: Millis, scratch: &mut Scratch) -> ControlFlow<()> {
        match upstream.read(&mut scratch.input) {
            Ok(0) => self.pair.upstream_closed(now, &mut scratch.output),
            Ok(count) => {
                let progress = self.pair.upstream_data(&scratch.input[..count], now, &mut scratch.output);
                self.guard.add_read(progress, self.pair.counts().events, now);
            }
            Err(error) if would_block(&error) => return ControlFlow::Break(()),
            Err(_) => self.pair.upstream_failed(now),
        }
        ControlFlow::Continue(())
    }

    /// Writes what is pending, then `output`; what cannot be written becomes pending. Clears `output`.
    fn write(&mut self, client: &mut impl Socket, now: Millis, output: &mut Vec<u8>) {
        if self.pending.is_none() && output.is_empty() {
            return;
        }
        let outcome = self.write_in_order(client, output);
        output.clear();
        match outcome {
            Ok(progress) => self.pair.wrote(progress, self.pending.is_some(), now),
            Err(error) => self.client_failed(&error),
        }
    }

    fn write_in_order(&mut self, client: &mut impl Socket, output: &[u8]) -> io::Result<bool> {
        let mut progress = false;
        if let Some(pending) = &mut self.pending {
            let written = write_some(client, &pending.bytes[pending.written..])?;
            progress = written > 0;
            pending.written += written;
            if pending.written < pending.bytes.len() {
                pending.bytes.extend_from_slice(output);
                return Ok(progress);
            }
            self.pending = None;
        }
        let written = write_some(client, output)?;
        if written < output.len() {
            self.pending = Some(Box::new(Unwritten { bytes: output[written..].to_vec(), written: 0 }));
            return Ok(progress || written > 0);
        }
        match client.flush() {
            Ok(()) => Ok(true),
            // TLS holds encrypted bytes: the client is behind until they are written, by the next calls.
            Err(error) if would_block(&error) => {
                self.pending = Some(Box::new(Unwritten { bytes: Vec::new(), written: 0 }));
                Ok(progress || written > 0)
            }
            Err(error) => Err(error),
        }
    }

    /// Finishes an ended stream once nothing is left to write; until then, waits.
    fn end<U>(&mut self, client: &mut impl Socket, upstream: &mut Option<U>, now: Millis) -> DriveOutcome {
        let Some(reason) = self.pair.ended() else { return DriveOutcome::Wait };
        // The stream needs nothing more from the upstream.
        *upstream = None;
        let abandoned = self.pair.abandoned();
        if !abandoned && (self.pending.is_some() || self.pair.breaks_later()) {
            return DriveOutcome::Wait;
        }
        let clean = self.pair.ended_clean();
        if clean {
            self.phase = Phase::Closing;
            if client.shutdown().is_err_and(|error| would_block(&error)) {
                // TLS still has to write `close_notify`, under the same write timeout as other bytes.
                self.pair.wrote(false, true, now);
                return DriveOutcome::Wait;
            }
        }
        // Without chunks, only a reset shows the client that its body is incomplete. An abandoned client's unsent data
        // in the kernel must not outlive the stream.
        if !clean && (self.framing != Framing::Chunked || (abandoned && reason != EndReason::ClientGone)) {
            self.phase = Phase::Closing;
            if client.reset_on_close(abandoned).is_err_and(|error| would_block(&error)) {
                self.pair.wrote(false, true, now);
                return DriveOutcome::Wait;
            }
        }
        self.record_end(reason, clean);
        DriveOutcome::Done
    }

    /// Whether the stream has come to its end, and the client has seen which.
    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Recorded
    }

    fn record_end(&mut self, reason: EndReason, clean: bool) {
        if self.phase != Phase::Recorded {
            self.phase = Phase::Recorded;
            self.guard.close(reason, clean, self.pair.counts());
        }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.record_end(EndReason::Dropped, false);
    }
}

/// Writes until everything is written or the socket takes no more.
fn write_some(client: &mut impl Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match client.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if would_block(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Ended, Observer, Route, StreamInfo, scratch};
    use super::*;
    use crate::stream::{Opening, Policy};
    use crate::wire::body::Body;

    /// Readable without an end, `bytes` at a time, or never if that is 0.
    #[derive(Default)]
    struct Peer {
        bytes: usize,
        reads: u32,
        /// Whether nothing can be written.
        is_behind: bool,
        /// Whether what has been written stays in its buffer, as with TLS.
        holds_back: bool,
        flushes: u32,
    }

    impl Peer {
        fn endless(bytes: usize) -> Self {
            Self { bytes, ..Self::default() }
        }
    }

    impl Socket for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            assert!(self.reads < 10_000, "unbounded reading");
            if self.bytes == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(self.bytes.min(buffer.len())) }
        }

        fn has_unread(&mut self) -> bool {
            self.bytes > 0
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_behind { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes += 1;
            if self.holds_back { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        }

        fn shutdown(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn reset_on_close(&mut self, _: bool) -> io::Result<()> {
            Ok(())
        }
    }

    struct NoObserver;

    impl Observer for NoObserver {
        fn ended(&self, _: &Ended<'_>) {}
    }

    /// Invariant: no stream starves the others on its thread. Mechanism: what a client sends on a running stream was
    /// read until nothing was left, and a client that sends as fast as it is read never stops. Symptom: events of all
    /// streams on the thread are a hundred times later, or stop.
    #[test]
    fn a_client_that_keeps_sending_does_not_starve_other_streams() {
        let mut stream = stream(Policy::default());
        let mut client = Peer::endless(1);
        let mut upstream: Option<Peer> = None;
        let next = scratch::with(|scratch| stream.drive(&mut client, &mut upstream, Millis(0), scratch));
        assert_eq!((next, client.reads), (DriveOutcome::Again, READS_PER_CALL));
    }

    /// Invariant: the work that a client causes on a running stream is bounded. Mechanism: whatever it sent was read
    /// for as long as it sent. Symptom: eight clients took most of a core.
    #[test]
    fn a_client_that_floods_a_running_stream_is_closed() {
        // Bytes in each read, reads in each second, seconds, and whether the stream continues.
        for (bytes, per_second, seconds, lives) in [
            (16_384, 1, 1, true),
            (16_384, 16, 1, false),
            (1, 16, 1, true),
            (1, 200, 1, false),
            (1, 1, 3600, true),
            (1000, 1, 3600, false),
        ] {
            let mut stream = stream(Policy::default());
            let opened = stream.guard.opened().0;
            let mut client = Peer::endless(bytes);
            let mut input = [0; 16_384];
            for second in 0..seconds {
                client.reads = READS_PER_CALL - 1;
                for _ in 0..per_second {
                    if !stream
                        .is_within_client_limit(client.read(&mut input).expect("bytes"), Millis(opened + 1000 * second))
                    {
                        stream.pair.client_floods();
                    }
                }
            }
            let ended = (!lives).then_some(EndReason::ClientFlood);
            assert_eq!(stream.pair.ended(), ended, "{per_second} reads of {bytes} bytes for {seconds} s");
        }
    }

    /// Invariant: an upstream whose bytes wait for the client is not idle. Mechanism: once the client was writable again, whether the
    /// upstream had been left unread was forgotten before the idle timeout was handled. Symptom: a slow client's stream ended
    /// with `idle_timeout`, when the client caught up just after the timeout.
    #[test]
    fn an_upstream_left_unread_is_not_idle_when_its_client_catches_up() {
        for write in [None, Some(Duration::from_secs(1))] {
            let mut policy = Policy::default();
            (policy.timeouts.idle, policy.timeouts.write) = (Some(Duration::from_secs(1)), write);
            let mut stream = stream(policy);
            let mut client = Peer { is_behind: true, ..Peer::default() };
            let mut upstream = Some(Peer::endless(1));
            let mut drive = |client: &mut Peer, at: u64| {
                scratch::with(|scratch| stream.drive(client, &mut upstream, Millis(at), scratch));
                stream.pair.ended()
            };
            assert_eq!(drive(&mut client, 0), None);
            client.is_behind = false;
            // The timers of streams are a little late.
            assert_eq!(drive(&mut client, 1030), None, "{write:?}");
        }
    }

    /// Invariant: what has been read reaches the client though the upstream sends nothing more, and no more is read meanwhile.
    /// Mechanism: a flush that blocked counted as written, and nothing repeated it. Symptom: the last event before a pause
    /// reached a slow client over TLS with the next event.
    #[test]
    fn encrypted_bytes_that_wait_are_written_before_more_is_read() {
        let mut policy = Policy::default();
        policy.timeouts.write = Some(Duration::from_secs(30));
        let mut stream = stream(policy);
        let mut client = Peer { holds_back: true, ..Peer::default() };
        let mut upstream = Some(Peer::endless(1));
        let mut drive = |client: &mut Peer, reads: u32| {
            scratch::with(|scratch| stream.drive(client, &mut upstream, Millis(0), scratch));
            let read = upstream.as_ref().map_or(0, |upstream| upstream.reads);
            assert_eq!(read, reads, "reads of the upstream");
            stream.pair.next_deadline()
        };
        assert_eq!(drive(&mut client, 1), Some(Millis(30_000)), "the write limit applies");
        let flushes = client.flushes;
        assert_eq!(drive(&mut client, 1), Some(Millis(30_000)), "which repeating does not postpone");
        assert!(client.flushes > flushes);
        client.holds_back = false;
        drive(&mut client, 1 + READS_PER_CALL);
        assert!(client.flushes > 2);
    }

    fn stream(policy: Policy) -> ActiveStream {
        let route = Route::new("/", policy, Arc::new(NoObserver));
        let (policy, body) = (route.policy.clone(), Body::UntilClose);
        let opening = Opening { policy, body, framing: Framing::Plain, identity: true, random: 0.0, lifetime: None };
        let info = StreamInfo::new(None, None, "GET", "/", std::time::Duration::ZERO);
        let start = Start { opening, unsent: Vec::new(), leftover: Vec::new(), route, info };
        ActiveStream::begin(start, Arc::default(), Millis(0))
    }
}
