//! A timer per thread that keeps wall-clock due times to the microsecond, where the runtime's own counts in milliseconds.
//!
//! One timerfd is armed for the earliest sleeper; sleepers stand in an ordered map and leave it when they are dropped.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock::unix_us;

/// When, and which of those that are due at the same moment.
type TimerKey = (u64, u64);

/// The sleepers of one thread.
#[derive(Debug)]
pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
    sleepers: RefCell<BTreeMap<TimerKey, Waker>>,
    next_key: Cell<u64>,
    armed_us: Cell<u64>,
}

impl Timer {
    /// Needs a runtime with its I/O driver on.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let fd = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "unsound only for types whose descriptor can change, which an OwnedFd's cannot")]
        let fd = AsyncFd::new(fd)?;
        Ok(Rc::new(Self { fd, sleepers: RefCell::default(), next_key: Cell::new(0), armed_us: Cell::new(u64::MAX) }))
    }

    /// Wakes sleepers as they fall due; runs until it is dropped.
    pub(super) async fn drive(self: Rc<Self>) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut expirations = [0; 8];
            let _ = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?));
            drop(ready);
            self.armed_us.set(u64::MAX);
            let now_us = unix_us();
            while let Some(waker) = self.pop_due(now_us) {
                waker.wake();
            }
            if let Some(((due_us, _), _)) = self.sleepers.borrow().first_key_value() {
                self.arm(*due_us);
            }
        }
    }

    /// Completes at `due_us` (Unix µs) or soon after, never before.
    pub(super) fn until(self: &Rc<Self>, due_us: u64) -> Sleep {
        Sleep { timer: Rc::clone(self), due_us, key: None }
    }

    fn pop_due(&self, now_us: u64) -> Option<Waker> {
        let mut sleepers = self.sleepers.borrow_mut();
        let first = sleepers.first_entry()?;
        (first.key().0 <= now_us).then(|| first.remove())
    }

    fn arm(&self, due_us: u64) {
        if due_us >= self.armed_us.get() {
            return;
        }
        let value = Timespec { tv_sec: (due_us / 1_000_000) as i64, tv_nsec: (due_us % 1_000_000 * 1_000) as i64 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        if timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &once).is_ok() {
            self.armed_us.set(due_us);
        }
    }
}

/// A sleep; dropping it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Sleep {
    timer: Rc<Timer>,
    due_us: u64,
    key: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if unix_us() >= self.due_us {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| self.timer.next_key.replace(self.timer.next_key.get() + 1));
        self.key = Some(key);
        self.timer.sleepers.borrow_mut().insert((self.due_us, key), context.waker().clone());
        self.timer.arm(self.due_us);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timer.sleepers.borrow_mut().remove(&(self.due_us, key));
        }
    }
}
