//! The timer that wakes a reactor for its next deadline, as a descriptor in its epoll set.
//!
//! A time limit on each wait would set and clear a kernel timer for every event, which on a virtual machine costs more
//! than reading the event does. This timer is set only when the next deadline changes: a few times a second.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

use crate::stream::Millis;

/// A `timerfd(2)` registered with a reactor. It is never read: setting it clears it.
#[derive(Debug)]
pub(super) struct TimerFd {
    timer: OwnedFd,
    set_to: Option<Millis>,
}

impl TimerFd {
    /// Registers a timer that is not set.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_to: None })
    }

    /// Fires once at `due`; never for `None`.
    ///
    /// # Errors
    /// The system's error; none is known for a valid time.
    pub(super) fn set(&mut self, due: Option<Millis>, now: Millis) -> io::Result<()> {
        if due == self.set_to {
            return Ok(());
        }
        let value = due.map_or(Timespec::default(), |due| {
            // A time in the past still has to fire: zero would disarm the timer.
            let ahead = due.0.saturating_sub(now.0).max(1);
            let seconds = i64::try_from(ahead / 1000).unwrap_or(i64::MAX);
            Timespec { tv_sec: seconds, tv_nsec: (ahead % 1000 * 1_000_000) as _ }
        });
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.set_to = due;
        Ok(())
    }

    /// Records that the timer has fired and is no longer set.
    pub(super) fn fired(&mut self) {
        self.set_to = None;
    }
}
