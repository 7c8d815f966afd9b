//! Every running stream of one process, so that a drain reaches silent ones too.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

/// `drain_limit_ms` while no drain is under way.
const NOT_DRAINING: u64 = u64::MAX;

/// The running streams, and the drain under way, if any.
#[derive(Debug)]
pub struct StreamRegistry {
    active: AtomicUsize,
    /// Requests that may still become streams, if streams are limited.
    opening: AtomicU64,
    drain_limit_ms: AtomicU64,
    /// Wakers for a drain: of the streams that have a task, and of the reactor threads.
    tasks: Mutex<Slab<Waker>>,
    threads: Mutex<Vec<Arc<mio::Waker>>>,
    emptied: Notify,
}

impl Default for StreamRegistry {
    fn default() -> Self {
        Self {
            active: AtomicUsize::new(0),
            opening: AtomicU64::new(0),
            drain_limit_ms: AtomicU64::new(NOT_DRAINING),
            tasks: Mutex::default(),
            threads: Mutex::default(),
            emptied: Notify::new(),
        }
    }
}

impl StreamRegistry {
    /// Asks every stream, running or still to come, to end at its next event boundary, and cuts those that have not
    /// reached one after `limit`.
    pub fn drain(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).min(NOT_DRAINING - 1);
        self.drain_limit_ms.store(millis, Ordering::Release);
        for thread in lock(&self.threads).iter() {
            if let Err(error) = thread.wake() {
                log::error!("drain incomplete: side=internal: a reactor thread cannot be woken: {error}");
            }
        }
        // Woken outside the lock: a woken stream may end at once on another thread and want it.
        let tasks: Vec<Waker> = lock(&self.tasks).iter().map(|(_, waker)| waker.clone()).collect();
        tasks.into_iter().for_each(Waker::wake);
    }

    /// The limit of the drain under way, if one is.
    pub fn draining(&self) -> Option<Duration> {
        match self.drain_limit_ms.load(Ordering::Acquire) {
            NOT_DRAINING => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    /// Number of running streams.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    pub(super) fn opening(&self) -> &AtomicU64 {
        &self.opening
    }

    pub(super) fn stream_opened(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn stream_ended(&self) {
        if self.active.fetch_sub(1, Ordering::AcqRel) == 1 {
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

    pub(super) fn remove_task(&self, key: usize) {
        let mut tasks = lock(&self.tasks);
        tasks.try_remove(key);
        // Releases the memory of a burst.
        if tasks.is_empty() && tasks.capacity() > 1024 {
            tasks.shrink_to_fit();
        }
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
