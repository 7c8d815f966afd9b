//! The clocks of this crate: wall time for stamps, CPU time of the own thread. Nothing else reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the Unix epoch (`CLOCK_REALTIME`), which processes on one machine share.
#[must_use]
pub fn unix_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    elapsed.as_micros() as u64
}

/// CPU time the calling thread has used, in microseconds.
#[must_use]
pub fn thread_cpu_us() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as u64 * 1_000_000 + used.tv_nsec as u64 / 1_000
}
