//! Measures how long a client has taken nothing of its response.
//!
//! A client that reads slowly frees no room for a write for long: the kernel reports room in pieces of 64 KiB. So the bytes
//! that the client's kernel has acknowledged count, at several checks within the limit.

use std::task::{Context, Poll};
use std::time::Duration;

use super::exchange::WaitTimer;

/// Checks within the limit.
const CHECKS: u32 = 4;

/// The wait for a client that does not keep up.
pub(super) struct StallTimer {
    timer: WaitTimer,
    /// Checks in a row in which it had taken nothing.
    checks: u32,
    /// The bytes that it had acknowledged at the last check, where the kernel counts them for this response.
    acknowledged: Option<u64>,
}

impl StallTimer {
    pub(super) fn new() -> Self {
        Self { timer: WaitTimer::new(), checks: 0, acknowledged: None }
    }

    /// Starts the wait anew.
    pub(super) fn restart(&mut self, acknowledged: Option<u64>) {
        self.timer.restart();
        (self.checks, self.acknowledged) = (0, acknowledged);
    }

    /// Ready with the limit once the client has taken nothing for so long.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Option<Duration>,
        acknowledged: impl Fn() -> Option<u64>,
    ) -> Poll<Duration> {
        let Some(limit) = limit else { return Poll::Pending };
        while self.timer.poll(cx, Some(limit / CHECKS)).is_ready() {
            let acknowledged = acknowledged();
            self.checks = if acknowledged == self.acknowledged { self.checks + 1 } else { 0 };
            self.acknowledged = acknowledged;
            if self.checks == CHECKS {
                return Poll::Ready(limit);
            }
            self.timer.restart();
        }
        Poll::Pending
    }
}
