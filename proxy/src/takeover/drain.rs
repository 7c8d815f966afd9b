//! Ends every stream for a shutdown, between two events.

use std::time::Duration;

use super::{Drained, Takeover};

/// Past the limit, what is being cut gets this long.
const MARGIN: Duration = Duration::from_secs(1);

impl Takeover {
    /// The number of streams that are running.
    pub fn active(&self) -> usize {
        self.registry().active()
    }

    /// Asks every stream, running or still to come, to end at the end of the event under way, and waits until all have ended or
    /// `limit` has passed. What is left then is cut.
    ///
    /// Call it once the listeners accept no more: streams that begin during a drain end at once.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the drain goes on: streams still end at their next event, or are cut when `limit` has passed.
    ///
    /// ```no_run
    /// # async fn shut_down(takeover: &sse_proxy::Takeover) {
    /// let drained = takeover.drain(std::time::Duration::from_secs(30)).await;
    /// println!("{} streams ended, {} were cut", drained.ended, drained.cut);
    /// # }
    /// ```
    pub async fn drain(&self, limit: Duration) -> Drained {
        let registry = self.registry();
        let before = registry.active();
        registry.drain(limit);
        let _ = tokio::time::timeout(limit, registry.emptied()).await;
        let cut = registry.active();
        registry.drain(Duration::ZERO);
        let _ = tokio::time::timeout(MARGIN, registry.emptied()).await;
        Drained { ended: before.saturating_sub(cut), cut }
    }
}
