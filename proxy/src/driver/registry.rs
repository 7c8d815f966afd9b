//! Every running stream of one process, so that drains and visits reach silent ones too.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use super::clock;
use super::permit::StreamCounts;
use super::visit::{DueVisit, Visit, Visitor};
use crate::stream::{Drain, Millis, RetryRange};

/// `cut_at` while no drain is under way.
const NOT_DRAINING: u64 = u64::MAX;

/// Tasks woken for a visit at once, and the pause before the next ones, in which a runtime serves others.
const TASKS_PER_SLICE: usize = 256;
const SLICE_PAUSE: Duration = Duration::from_millis(1);

/// The running streams, and the drain under way, if any.
pub struct StreamRegistry {
    counts: Arc<StreamCounts>,
    /// The times of the drain under way; the others are valid once this one is set.
    cut_at: AtomicU64,
    spread_until: AtomicU64,
    /// Two delays in milliseconds, the shortest in the upper bits; 0 for none.
    retry: AtomicU64,
    /// Wakers for drains and visits: of the streams that have a task, and of the reactor threads.
    tasks: Mutex<Slab<Waker>>,
    threads: Mutex<Vec<Arc<mio::Waker>>>,
    /// The visits under way, and their number.
    visits: Mutex<Vec<Arc<Visit>>>,
    visiting: AtomicUsize,
    emptied: Notify,
}

impl fmt::Debug for StreamRegistry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StreamRegistry").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Default for StreamRegistry {
    fn default() -> Self {
        Self {
            counts: Arc::default(),
            cut_at: AtomicU64::new(NOT_DRAINING),
            spread_until: AtomicU64::new(0),
            retry: AtomicU64::new(0),
            tasks: Mutex::default(),
            threads: Mutex::default(),
            visits: Mutex::default(),
            visiting: AtomicUsize::new(0),
            emptied: Notify::new(),
        }
    }
}

impl StreamRegistry {
    /// Asks every stream, running or still to come, to end at its next event boundary, and cuts those that have not
    /// reached one after `limit`.
    pub fn drain(&self, limit: Duration) {
        self.drain_over(Duration::ZERO, limit, None);
    }

    /// The same, but each stream ends at a moment of its own within `spread`, with a `retry:` field where there is a range for its
    /// value. `limit` includes `spread`.
    pub fn drain_over(&self, spread: Duration, limit: Duration, retry: Option<RetryRange>) {
        let now = clock::now();
        let retry = retry.map_or(0, |range| u64::from(range.min_ms.max(1)) << 32 | u64::from(range.max_ms));
        self.retry.store(retry, Ordering::Relaxed);
        self.spread_until.store(now.after(spread).0, Ordering::Relaxed);
        self.cut_at.store(now.after(limit).0.min(NOT_DRAINING - 1), Ordering::Release);
        for thread in lock(&self.threads).iter() {
            if let Err(error) = thread.wake() {
                log::error!("drain incomplete: side=internal: a reactor thread cannot be woken: {error}");
            }
        }
        // Woken outside the lock: a woken stream may end at once on another thread and want it.
        let tasks: Vec<Waker> = lock(&self.tasks).iter().map(|(_, waker)| waker.clone()).collect();
        tasks.into_iter().for_each(Waker::wake);
    }

    /// The times of the drain under way, if one is.
    #[inline]
    pub fn draining(&self) -> Option<Drain> {
        match self.cut_at.load(Ordering::Acquire) {
            NOT_DRAINING => None,
            cut_at => Some(self.drain_until(Millis(cut_at))),
        }
    }

    #[cold]
    fn drain_until(&self, cut_at: Millis) -> Drain {
        let (spread_until, retry) = (self.spread_until.load(Ordering::Relaxed), self.retry.load(Ordering::Relaxed));
        let delay = |millis: u64| Duration::from_millis(millis & u64::from(u32::MAX));
        let retry = (retry > 0).then(|| RetryRange::new(delay(retry >> 32), delay(retry)));
        Drain { spread_until: Millis(spread_until), cut_at, retry }
    }

    /// Number of running streams.
    pub fn active(&self) -> usize {
        self.counts.active.load(Ordering::Acquire)
    }

    /// What limits on streams compare.
    pub fn counts(&self) -> &Arc<StreamCounts> {
        &self.counts
    }

    pub(super) fn stream_opened(&self) {
        self.counts.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn stream_ended(&self) {
        if self.counts.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until no stream is running. Cancel-safe.
    pub(crate) async fn all_ended(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the count is read, so that the last stream cannot end unnoticed in between.
            emptied.as_mut().enable();
            if self.active() == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn on_drain(&self, thread: Arc<mio::Waker>) {
        lock(&self.threads).push(thread);
    }

    pub(super) fn insert_task(&self, waker: Waker) -> usize {
        lock(&self.tasks).insert(waker)
    }

    /// Begins a visit of all streams that have a task, and of those of this many reactors, to which the caller sends it.
    pub(super) fn begin_visit(&self, visitor: Arc<Visitor>, reactors: usize) -> VisitUnderWay<'_> {
        // Locked together, so that no task ends between the two.
        let mut visits = lock(&self.visits);
        let tasks: HashSet<usize> = lock(&self.tasks).iter().map(|(key, _)| key).collect();
        let visit = Visit::new(visitor, tasks, reactors);
        visits.push(visit.clone());
        self.visiting.store(visits.len(), Ordering::Release);
        VisitUnderWay { registry: self, visit }
    }

    /// The visits that have not come to this task yet.
    pub(super) fn visits_of(&self, task: usize) -> Vec<DueVisit> {
        if self.visiting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        lock(&self.visits).iter().filter_map(|visit| visit.take_task(task)).collect()
    }

    pub(super) fn remove_task(&self, key: usize) {
        // In this order everywhere. Until its key is free for another task, no visit begins that would wait for it.
        let visits = lock(&self.visits);
        let mut tasks = lock(&self.tasks);
        for visit in visits.iter() {
            drop(visit.take_task(key));
        }
        tasks.try_remove(key);
        // Releases the memory of a burst.
        if tasks.is_empty() && tasks.capacity() > 1024 {
            tasks.shrink_to_fit();
        }
    }
}

/// Ends a visit when it is dropped.
pub(super) struct VisitUnderWay<'r> {
    registry: &'r StreamRegistry,
    pub(super) visit: Arc<Visit>,
}

impl VisitUnderWay<'_> {
    /// Wakes all tasks, in slices.
    pub(super) async fn wake_tasks(&self) {
        let tasks: Vec<Waker> = lock(&self.registry.tasks).iter().map(|(_, waker)| waker.clone()).collect();
        for slice in tasks.chunks(TASKS_PER_SLICE) {
            slice.iter().for_each(Waker::wake_by_ref);
            tokio::time::sleep(SLICE_PAUSE).await;
        }
    }
}

impl Drop for VisitUnderWay<'_> {
    fn drop(&mut self) {
        let mut visits = lock(&self.registry.visits);
        visits.retain(|visit| !Arc::ptr_eq(visit, &self.visit));
        self.registry.visiting.store(visits.len(), Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_the_last_stream_ends_with_it() {
        let registry = Arc::<StreamRegistry>::default();
        registry.all_ended().await;
        registry.stream_opened();
        registry.stream_opened();
        let waiting = tokio::spawn({
            let registry = registry.clone();
            async move { registry.all_ended().await }
        });
        registry.stream_ended();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one is left");
        registry.stream_ended();
        waiting.await.expect("it ends");
    }
}
