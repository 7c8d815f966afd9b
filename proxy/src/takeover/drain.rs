//! Ends every stream for a shutdown, between two events.

use std::time::Duration;

use crate::driver::StreamRegistry;

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Streams that ended at the end of an event, or by themselves, within the limit.
    pub ended: usize,
    /// Streams that did not reach the end of an event in time and were cut: their clients see a broken response.
    pub cut: usize,
}

/// How long streams that are being cut may take after the limit.
const MARGIN: Duration = Duration::from_secs(1);

/// Asks every stream to end between two events, waits for at most `limit`, and cuts what is left.
pub(super) async fn drain(registry: &StreamRegistry, limit: Duration) -> Drained {
    let before = registry.active();
    registry.drain(limit);
    let _ = tokio::time::timeout(limit, registry.all_ended()).await;
    let cut = registry.active();
    registry.drain(Duration::ZERO);
    let _ = tokio::time::timeout(MARGIN, registry.all_ended()).await;
    Drained { ended: before.saturating_sub(cut), cut }
}
