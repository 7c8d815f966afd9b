//! The process's monotonic clock in the core's unit.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::stream::Millis;

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Milliseconds since the first call in this process.
pub(super) fn now() -> Millis {
    Millis(u64::try_from(epoch().elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The moment as the timer wheel wants it; one too far away for the clock is a day off.
pub(super) fn instant(at: Millis) -> tokio::time::Instant {
    const FAR: Duration = Duration::from_secs(86_400);
    // Half a millisecond up: a timer that rounds down would fire before its moment and be set again.
    let since_epoch = Duration::from_millis(at.0).saturating_add(Duration::from_micros(500));
    epoch().checked_add(since_epoch).unwrap_or_else(|| Instant::now() + FAR).into()
}
