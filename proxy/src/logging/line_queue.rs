//! A bounded queue of lines, and the thread that writes them. Adding a line never waits for the writer.

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use crate::threads;

/// An empty buffer that a burst has grown beyond this is released, in bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// Limits on queued lines, those being written included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

/// The writer of a queue. Called on the queue's thread, and may block.
pub(crate) trait Sink: Send + 'static {
    /// Writes `batch`, which consists of whole lines. `dropped` lines exceeded the queue after them.
    fn write(&mut self, batch: &[u8], dropped: u64);

    /// How long to wait for lines before [`Sink::idle`]; `None` waits without a limit.
    fn idle_wait(&self) -> Option<Duration> {
        None
    }

    /// Called when no line was added for [`Sink::idle_wait`].
    fn idle(&mut self) {}
}

/// A handle to add lines. Clones add to the same queue.
#[derive(Clone)]
pub struct LineQueue(Arc<Shared>);

struct Shared {
    limits: Limits,
    lost: Counter,
    state: Mutex<State>,
    added: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    /// The queued lines, concatenated.
    waiting: Vec<u8>,
    waiting_lines: usize,
    /// Size of the batch that is being written.
    writing: usize,
    writing_lines: usize,
    /// Lines dropped since the last batch.
    dropped: u64,
    /// Batches taken and batches written: what [`LineQueue::flush`] compares.
    taken: u64,
    done: u64,
}

impl LineQueue {
    /// Starts the thread. Dropped lines are counted in `lost`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(name: &str, limits: Limits, lost: Counter, sink: impl Sink) -> io::Result<Self> {
        let queue = Self::new(limits, lost);
        let shared = queue.0.clone();
        threads::spawn(name, move || shared.write_to(sink))?;
        Ok(queue)
    }

    fn new(limits: Limits, lost: Counter) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { limits, lost, state, added: Condvar::new(), written: Condvar::new() }))
    }

    /// Adds a line, which must end with a newline. Drops and counts it if the queue is full.
    pub fn add(&self, line: &[u8]) {
        let Shared { limits, lost, added, .. } = &*self.0;
        let mut state = self.0.state();
        let is_full = state.waiting_lines + state.writing_lines >= limits.lines
            || state.waiting.len() + state.writing + line.len() > limits.bytes;
        if is_full {
            state.dropped += 1;
            lost.inc();
            return;
        }
        state.waiting.extend_from_slice(line);
        state.waiting_lines += 1;
        drop(state);
        added.notify_one();
    }

    /// Waits until every line added so far has been written, or `limit` has passed. Returns whether they have.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.0.state();
        // The lines queued now, if any, are in the next batch that is taken.
        let wanted = state.taken + u64::from(!state.waiting.is_empty());
        while state.done < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.0.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut sink: impl Sink) {
        let mut batch = Vec::new();
        loop {
            match self.take(&mut batch, sink.idle_wait()) {
                Some(dropped) => sink.write(&batch, dropped),
                None => sink.idle(),
            }
            batch.clear();
            if batch.capacity() > KEPT_BYTES {
                batch = Vec::new();
            }
            let mut state = self.state();
            (state.writing, state.writing_lines) = (0, 0);
            state.done = state.taken;
            drop(state);
            self.written.notify_all();
        }
    }

    /// Takes the queued lines and the number of dropped ones; `None` if nothing was added for `idle_wait`.
    fn take(&self, batch: &mut Vec<u8>, idle_wait: Option<Duration>) -> Option<u64> {
        let until = idle_wait.map(|idle_wait| Instant::now() + idle_wait);
        let mut state = self.state();
        while state.waiting.is_empty() && state.dropped == 0 {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.added.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => self.added.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        mem::swap(batch, &mut state.waiting);
        state.writing = batch.len();
        state.writing_lines = mem::take(&mut state.waiting_lines);
        state.taken += 1;
        Some(mem::take(&mut state.dropped))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Passes each batch to the test, and blocks until the test continues it.
    struct Gate {
        batches: Sender<(String, u64)>,
        go_on: Receiver<()>,
    }

    impl Sink for Gate {
        fn write(&mut self, batch: &[u8], dropped: u64) {
            let _ = self.batches.send((String::from_utf8_lossy(batch).into_owned(), dropped));
            let _ = self.go_on.recv();
        }
    }

    fn stuck(limits: Limits) -> (LineQueue, Counter, Receiver<(String, u64)>, Sender<()>) {
        let ((batches, written), (let_go, go_on)) = (channel(), channel());
        let lost = Counter::default();
        let queue = LineQueue::start("lines", limits, lost.clone(), Gate { batches, go_on }).expect("a thread");
        queue.add(b"first\n");
        assert_eq!(written.recv_timeout(SOON), Ok(("first\n".to_owned(), 0)));
        (queue, lost, written, let_go)
    }

    /// Invariant: adding and flushing never block on the writer. Mechanism: a flush was added to the queue, which
    /// waited when it was full. Symptom: the process did not exit while the reader of its log was stuck.
    #[test]
    fn a_stuck_writer_blocks_no_caller_and_lines_beyond_the_limits_are_dropped() {
        for limits in [Limits { lines: 4, bytes: 1000 }, Limits { lines: 1000, bytes: 6 + 3 * 7 }] {
            let (queue, lost, written, let_go) = stuck(limits);
            for at in 0..5 {
                queue.add(format!("line {at}\n").as_bytes());
            }
            assert_eq!(lost.get(), 2, "{limits:?}: three fit beside the one that is being written");
            assert!(!queue.flush(Duration::from_millis(20)), "nothing has been written");
            let_go.send(()).expect("the writer");
            let batch = written.recv_timeout(SOON).expect("the queued lines");
            assert_eq!(batch, ("line 0\nline 1\nline 2\n".to_owned(), 2), "whole lines, and the count of dropped ones");
            let_go.send(()).expect("the writer");
            assert!(queue.flush(SOON), "written by now");
            queue.add(b"again\n");
            assert_eq!(written.recv_timeout(SOON), Ok(("again\n".to_owned(), 0)));
        }
    }
}
