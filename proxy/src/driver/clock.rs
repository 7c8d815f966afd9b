//! The process's monotonic clock in the unit of [`crate::stream`].

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::stream::Millis;

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Milliseconds since the first call in this process.
pub(crate) fn now() -> Millis {
    Millis(u64::try_from(epoch().elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Converts a time for tokio's timers; one beyond the clock's range becomes a day from now.
pub(crate) fn instant(at: Millis) -> tokio::time::Instant {
    const FAR: Duration = Duration::from_secs(86_400);
    // Half a millisecond later: a timer that rounds down would fire early and have to be set again.
    let since_epoch = Duration::from_millis(at.0).saturating_add(Duration::from_micros(500));
    epoch().checked_add(since_epoch).unwrap_or_else(|| Instant::now() + FAR).into()
}
