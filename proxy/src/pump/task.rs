//! The task driver: one small tokio task per stream, for any transport.
//!
//! A future written by hand, because what a compiler-made one keeps across its waits is several times this size.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::account::Account;
use super::scratch::{self, Scratch};
use super::{Label, Registry, Route, Transport, clock};
use crate::stream::{Core, EndReason, Framing, Millis, Opening};

/// Reads per wake-up before other tasks get their turn.
const READS_PER_POLL: u32 = 16;

/// What a driver needs to run a stream whose heads have passed.
#[derive(Debug)]
pub struct Start {
    /// How the two bodies are framed and what rules hold.
    pub opening: Opening,
    /// The client's connection, its response head written.
    pub client: Transport,
    /// The upstream's connection, its response head read.
    pub upstream: Transport,
    /// Body bytes that came with the upstream's head.
    pub leftover: Vec<u8>,
    /// Where it is counted.
    pub route: Arc<Route>,
    /// Who else is running.
    pub registry: Arc<Registry>,
    /// For the log.
    pub label: Label,
}

/// Runs a stream to its end on the current runtime. Counted as open from here.
pub fn spawn(start: Start) {
    let Start { opening, client, upstream, leftover, route, registry, label } = start;
    client.bound_send_queue(opening.policy.timeouts.write);
    let now = clock::now();
    let framing = opening.framing;
    let core = Core::new(opening, now);
    let pump = Pump {
        timer: tokio::time::sleep_until(clock::instant(core.next_deadline().unwrap_or(NEVER))),
        timer_at: core.next_deadline().unwrap_or(NEVER),
        state: State {
            core,
            client,
            upstream: Some(upstream),
            pending: leftover_first(leftover),
            phase: Phase::Leftover,
            framing,
            account: Account::open(route, registry, label),
            closed: false,
        },
    };
    tokio::spawn(pump);
}

/// Stands for no deadline: further away than any process lives, near enough for the timer wheel.
const NEVER: Millis = Millis(1 << 40);

/// An empty vector must not cost an allocation.
fn leftover_first(leftover: Vec<u8>) -> Pending {
    Pending { bytes: leftover, written: 0 }
}

/// Bytes that wait for the client; before the first poll, those that wait for the core.
struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `pending` holds upstream bytes that the core has not seen.
    Leftover,
    Running,
    /// Everything is written; the client's side is being closed in order.
    Closing,
}

struct State {
    core: Core,
    client: Transport,
    upstream: Option<Transport>,
    pending: Pending,
    phase: Phase,
    framing: Framing,
    account: Account,
    closed: bool,
}

pin_project! {
    struct Pump {
        #[pin]
        timer: Sleep,
        // What the timer is set to. Moved only when something is due earlier, or when it has fired: an event that puts
        // deadlines off costs nothing.
        timer_at: Millis,
        state: State,
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        this.state.account.register(cx.waker());
        let outcome = scratch::with(|scratch| this.state.drive(cx, scratch));
        if outcome.is_ready() {
            this.state.finish();
            return Poll::Ready(());
        }
        loop {
            let next = this.state.core.next_deadline().unwrap_or(NEVER);
            let fired = this.timer.as_mut().poll(cx).is_ready();
            if !fired && next >= *this.timer_at {
                return Poll::Pending;
            }
            if fired && next <= clock::now() {
                // `drive` runs the deadlines first; come back at once.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *this.timer_at = next;
            this.timer.as_mut().reset(clock::instant(next));
        }
    }
}

impl State {
    /// Does everything that can be done now. Ready when nothing is left to do at all.
    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<()> {
        let now = clock::now();
        self.watch_client(cx, scratch);
        if let Some(limit) = self.account.draining() {
            self.core.close(EndReason::Drain, limit, now);
        }
        if self.phase == Phase::Leftover {
            let leftover = std::mem::take(&mut self.pending.bytes);
            self.phase = Phase::Running;
            let progress = self.core.upstream_data(&leftover, now, &mut scratch.output);
            self.account.add(progress);
        }
        // Before the deadlines: a client that has made room is not stalled.
        self.write(cx, now, &mut scratch.output);
        let progress = self.core.tick(now, &mut scratch.output);
        self.account.add(progress);
        self.write(cx, now, &mut scratch.output);
        for _ in 0..READS_PER_POLL {
            if !self.core.wants_upstream() {
                return self.poll_end(cx);
            }
            ready!(self.read_upstream(cx, now, scratch));
            self.write(cx, now, &mut scratch.output);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Notices that the client has left. What it sends while it listens has no meaning here and is dropped.
    fn watch_client(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) {
        while self.phase != Phase::Closing {
            let mut buffer = ReadBuf::new(&mut scratch.input);
            match self.client.poll_read(cx, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(error)) => return self.client_failed(&error),
                Poll::Ready(Ok(())) => return self.core.client_gone(),
            }
        }
    }

    fn client_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::TimedOut => self.core.client_stalled(),
            _ => self.core.client_gone(),
        }
    }

    /// Moves one read from the upstream through the core into `output`.
    fn read_upstream(&mut self, cx: &mut Context<'_>, now: Millis, scratch: &mut Scratch) -> Poll<()> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(()) };
        let mut buffer = ReadBuf::new(&mut scratch.input);
        match ready!(upstream.poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => self.core.upstream_closed(now, &mut scratch.output),
            Ok(()) => {
                let progress = self.core.upstream_data(buffer.filled(), now, &mut scratch.output);
                self.account.add(progress);
            }
            Err(_) => self.core.upstream_failed(now),
        }
        Poll::Ready(())
    }

    /// Writes what is pending, then `output`; what the client does not take becomes pending. Empties `output`.
    fn write(&mut self, cx: &mut Context<'_>, now: Millis, output: &mut Vec<u8>) {
        if self.pending.bytes.is_empty() && output.is_empty() {
            return;
        }
        let mut progress = false;
        while self.pending.written < self.pending.bytes.len() {
            match self.client.poll_write(cx, &self.pending.bytes[self.pending.written..]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.pending.written += count;
                    progress = true;
                }
                Poll::Ready(Ok(_)) => return self.core.client_gone(),
                Poll::Ready(Err(error)) => return self.client_failed(&error),
                Poll::Pending => {
                    self.pending.bytes.append(output);
                    return self.core.wrote(progress, true, now);
                }
            }
        }
        self.pending = Pending { bytes: Vec::new(), written: 0 };
        let mut written = 0;
        while written < output.len() {
            match self.client.poll_write(cx, &output[written..]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    written += count;
                    progress = true;
                }
                Poll::Ready(Ok(_)) => return self.core.client_gone(),
                Poll::Ready(Err(error)) => return self.client_failed(&error),
                Poll::Pending => {
                    self.pending.bytes = output[written..].to_vec();
                    output.clear();
                    return self.core.wrote(progress, true, now);
                }
            }
        }
        output.clear();
        match self.client.poll_flush(cx) {
            Poll::Ready(Err(error)) => self.client_failed(&error),
            // A flush that has to wait is taken up when the transport wakes the task; its bytes are bounded.
            Poll::Ready(Ok(())) | Poll::Pending => self.core.wrote(true, false, now),
        }
    }

    /// Ready once an ended stream has nothing left to tell its client. Pending while the client is merely behind.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(reason) = self.core.ended() else { return Poll::Pending };
        // The upstream has nothing more to give or nobody left to give it to.
        self.upstream = None;
        let unreachable = matches!(reason, EndReason::ClientGone | EndReason::WriteTimeout);
        if !unreachable && !self.pending.bytes.is_empty() {
            return Poll::Pending;
        }
        if self.core.ended_clean() && !unreachable {
            self.phase = Phase::Closing;
            if self.client.poll_shutdown(cx).is_pending() {
                // TLS has a farewell to write; it may wait for the client as long as any bytes may.
                self.core.wrote(false, true, clock::now());
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn finish(&mut self) {
        let reason = self.core.ended().unwrap_or(EndReason::Dropped);
        let clean = self.core.ended_clean();
        // Without a last chunk to be missing, only a reset tells a client that its body was cut.
        if !clean && (self.framing == Framing::Plain || reason == EndReason::WriteTimeout) {
            self.client.reset_on_close();
        }
        self.closed = true;
        self.account.close(reason, clean, self.core.counts());
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.closed {
            self.account.close(EndReason::Dropped, false, self.core.counts());
        }
    }
}
