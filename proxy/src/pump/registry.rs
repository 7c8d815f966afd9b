//! Every running stream of one process, so that a drain reaches silent ones too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

/// `drain_limit_ms` while no drain is under way.
const NOT_DRAINING: u64 = u64::MAX;

/// The running streams and the drain they may be under.
#[derive(Debug)]
pub struct Registry {
    wakers: Mutex<Slab<Waker>>,
    drain_limit_ms: AtomicU64,
}

impl Default for Registry {
    fn default() -> Self {
        Self { wakers: Mutex::new(Slab::new()), drain_limit_ms: AtomicU64::new(NOT_DRAINING) }
    }
}

impl Registry {
    /// Asks every stream, running or still to come, to end at its next event boundary, and cuts those that have not
    /// reached one after `limit`.
    pub fn drain(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).min(NOT_DRAINING - 1);
        self.drain_limit_ms.store(millis, Ordering::Release);
        // Woken outside the lock: a woken stream may end at once on another thread and want it.
        let wakers: Vec<Waker> = self.lock().iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
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
        self.lock().len()
    }

    pub(super) fn insert(&self, waker: Waker) -> usize {
        self.lock().insert(waker)
    }

    pub(super) fn remove(&self, key: usize) {
        let mut wakers = self.lock();
        wakers.try_remove(key);
        // A wave of streams leaves: give their slots back.
        if wakers.capacity() > 1024 && wakers.len() < wakers.capacity() / 4 {
            wakers.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
