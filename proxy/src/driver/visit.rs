//! Visits running streams on the threads that run them: to list them, to change their rules, or to end them.
//!
//! A silent stream keeps nothing for it. A reactor passes over its table in slices; a stream that has a task visits itself when
//! the registry wakes it.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::stream_info::StreamInfo;
use crate::stream::{Counts, EndReason, Millis, Pair, Policy};

/// Called with each running stream, on the thread that runs it, so it must be quick.
pub type Visitor = dyn Fn(&mut RunningStream<'_>) + Send + Sync;

/// Identifies a running stream in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId {
    /// The reactor, from 1; 0 for a stream that has a task.
    pub(super) driver: u32,
    pub(super) key: u32,
    /// Tells apart streams that have had the same place one after the other.
    pub(super) opened: Millis,
}

impl Display for StreamId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{:x}-{:x}", self.driver, self.key, self.opened.0)
    }
}

impl FromStr for StreamId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let mut number = || parts.next().and_then(|part| u64::from_str_radix(part, 16).ok()).ok_or(());
        let (driver, key, opened) = (number()?, number()?, number()?);
        let short = |number: u64| u32::try_from(number).map_err(|_| ());
        Ok(Self { driver: short(driver)?, key: short(key)?, opened: Millis(opened) })
    }
}

/// A running stream, while it is visited.
pub struct RunningStream<'a> {
    pub(super) pair: &'a mut Pair,
    pub(super) route: &'a Arc<str>,
    pub(super) info: &'a StreamInfo,
    pub(super) id: StreamId,
    pub(super) pending_bytes: usize,
    pub(super) now: Millis,
    pub(super) changed: Changed,
}

/// What a visitor has changed of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The stream's rules: its client's socket has to get the new write timeout.
    pub(super) policy: bool,
    /// The stream is to end.
    pub(super) end: bool,
}

impl Changed {
    /// Whether the stream has to be driven.
    pub(super) fn any(self) -> bool {
        self.policy || self.end
    }
}

impl RunningStream<'_> {
    /// Its name while it runs.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The name of its route.
    pub fn route(&self) -> &Arc<str> {
        self.route
    }

    /// What is known from its request.
    pub fn info(&self) -> &StreamInfo {
        self.info
    }

    /// The rules that it follows.
    pub fn policy(&self) -> &Arc<Policy> {
        self.pair.policy()
    }

    /// What it has carried.
    pub fn counts(&self) -> Counts {
        self.pair.counts()
    }

    /// Time since it began.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.now.0.saturating_sub(self.id.opened.0))
    }

    /// Bytes that have been read and wait for the client.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Time since the upstream was active last, where its idle timeout measures that.
    pub fn silence(&self) -> Option<Duration> {
        // A clock that is read once more than the other may be a millisecond ahead.
        self.pair.silence(self.now).map(|silence| silence.min(self.age()))
    }

    /// Why it ends, if its end has begun.
    pub fn ended(&self) -> Option<EndReason> {
        self.pair.ended()
    }

    /// Replaces its rules, from now on: what has been waited for already counts.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.pair.set_policy(policy, self.id.opened, fastrand::f64(), self.now);
        self.changed.policy = true;
    }

    /// Ends it at its next event boundary, or after `limit`.
    pub fn end(&mut self, reason: EndReason, limit: Duration) {
        self.pair.close(reason, limit, self.now);
        self.changed.end = true;
    }
}

/// One visit of all streams that run at its beginning.
pub(super) struct Visit {
    visitor: Arc<Visitor>,
    /// The keys of the tasks that have not been visited.
    tasks: Mutex<HashSet<usize>>,
    /// Reactors and tasks that have not finished.
    left: AtomicUsize,
    finished: Notify,
}

impl Visit {
    pub(super) fn new(visitor: Arc<Visitor>, tasks: HashSet<usize>, reactors: usize) -> Arc<Self> {
        let left = AtomicUsize::new(tasks.len() + reactors);
        Arc::new(Self { visitor, tasks: Mutex::new(tasks), left, finished: Notify::new() })
    }

    /// Calls the visitor.
    pub(super) fn call(&self, stream: &mut RunningStream<'_>) {
        (self.visitor)(stream);
    }

    /// The visit of the task with this key, unless the task has had it.
    pub(super) fn take_task(self: &Arc<Self>, key: usize) -> Option<DueVisit> {
        let due = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        due.then(|| DueVisit(self.clone()))
    }

    /// A reactor has visited all of its streams, or a task its own.
    pub(super) fn one_finished(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finished.notify_waiters();
        }
    }

    /// Waits until every stream has been visited. Cancel-safe.
    pub(super) async fn finished(&self) {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // Registered before the count is read, so that the last one cannot finish unnoticed in between.
            finished.as_mut().enable();
            if self.left.load(Ordering::Acquire) == 0 {
                return;
            }
            finished.await;
        }
    }
}

/// A visit that has come to a task. It counts as finished there once this is dropped, also after a panic.
pub(super) struct DueVisit(pub(super) Arc<Visit>);

impl Drop for DueVisit {
    fn drop(&mut self) {
        self.0.one_finished();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = StreamId { driver: 3, key: 0xab_cdef, opened: Millis(1 << 40) };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1", "1-2", "1-2-", "1-2-3-4", "1-2-x", "1ffffffff-0-0", "-1-1-1"] {
            assert_eq!(text.parse::<StreamId>(), Err(()), "{text}");
        }
    }
}
