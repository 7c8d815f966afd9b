//! What a request occupies of the limits on streams, and then the stream that it becomes.
//!
//! A stream that runs is counted anyway, in the registry and in its route's totals. So only a request that may still
//! become one needs a count of its own, and a silent stream keeps nothing but its client's permit, if there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limits::{ClientPermit, Limit, RouteState};

/// The largest numbers of streams, opening ones included; `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct MostStreams {
    /// Of the process.
    pub all: Option<u64>,
    /// Of the route.
    pub route: Option<u64>,
}

/// The streams of the process.
#[derive(Debug, Default)]
pub struct StreamCounts {
    /// Those that run.
    pub(super) active: AtomicUsize,
    /// Requests that may still become streams, if streams are limited.
    opening: AtomicU64,
}

/// Counts a request as a stream that is opening, until it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    all: Arc<StreamCounts>,
    route: Arc<RouteState>,
    client: Option<ClientPermit>,
}

impl StreamPermit {
    /// Counts a stream of a route that is opening; `active` are those that run.
    ///
    /// # Errors
    /// The limit that it would exceed. Nothing is counted then.
    pub fn acquire(
        counts: &Arc<StreamCounts>,
        (route, active): (&Arc<RouteState>, &AtomicU64),
        most: MostStreams,
    ) -> Result<Self, Limit> {
        // Counted before it is compared: of several at once, none overlooks the others.
        let all = counts.opening.fetch_add(1, Ordering::AcqRel) + 1;
        let of_route = route.opening().fetch_add(1, Ordering::AcqRel) + 1;
        let permit = Self { all: counts.clone(), route: route.clone(), client: None };
        // An opening stream is counted as running before it is no longer counted here: the sum is never too small.
        if most.all.is_some_and(|most| all + counts.active.load(Ordering::Acquire) as u64 > most) {
            return Err(Limit::All);
        }
        if most.route.is_some_and(|most| of_route + active.load(Ordering::Acquire) > most) {
            return Err(Limit::Streams);
        }
        Ok(permit)
    }

    /// The same, with what the stream occupies of its client's limits as long as it runs.
    #[must_use]
    pub fn of_client(mut self, client: Option<ClientPermit>) -> Self {
        self.client = client;
        self
    }

    /// What is left to hold once the stream is counted as running.
    pub(super) fn begun(mut self) -> Option<ClientPermit> {
        self.client.take()
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.all.opening.fetch_sub(1, Ordering::AcqRel);
        self.route.opening().fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::observer::StreamGuard;
    use crate::driver::{Route, StreamInfo, StreamRegistry};
    use crate::limits::{ClientLimits, ClientTable};
    use crate::stream::Millis;
    use crate::stream::{Counts, EndReason, Policy};

    /// Invariant: what is counted is what opens and what runs, each once, and nothing once it has ended.
    #[test]
    fn a_stream_is_counted_from_its_request_to_its_end() {
        let registry = Arc::<StreamRegistry>::default();
        let route = Route::new("/", Policy::default(), Arc::new(()));
        let clients = Arc::<ClientTable>::default();
        let limits = ClientLimits { streams: Some(2), rate: None };
        let acquire = |all, of_route| -> Result<StreamPermit, Limit> {
            let most = MostStreams { all: Some(all), route: Some(of_route) };
            let permit = StreamPermit::acquire(registry.counts(), (route.totals.limits(), &route.totals.active), most)?;
            Ok(permit.of_client(clients.admit("a", limits, Millis(0))?))
        };
        let info = || StreamInfo::new(None, None, "GET", "/", std::time::Duration::ZERO);
        let first = acquire(2, 2).expect("room");
        let guard = StreamGuard::open(route.clone(), registry.clone(), info().holding(Some(first)));
        let second = acquire(2, 2).expect("room for another");
        assert_eq!(acquire(2, 9).expect_err("full"), Limit::All);
        assert_eq!(acquire(9, 2).expect_err("full"), Limit::Streams);
        assert_eq!(acquire(9, 9).expect_err("full"), Limit::StreamsPerClient);
        drop(second);
        drop(acquire(2, 2).expect("a request that became no stream is not counted"));
        guard.close(EndReason::ClientGone, false, Counts::default());
        drop(guard);
        assert_eq!((registry.active(), registry.counts().opening.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(clients.tracked(Millis(0)), 0);
        drop((acquire(2, 2).expect("room"), acquire(2, 2).expect("room again")));
    }
}
