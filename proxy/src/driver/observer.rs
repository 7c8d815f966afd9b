//! What is counted while a stream runs, and what is reported when it ends.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::clock;
use super::gaps::EventGaps;
use super::registry::StreamRegistry;
use super::stream_info::StreamInfo;
use super::visit::DueVisit;
use crate::failure::Failure;
use crate::limits::RouteState;
use crate::stream::{Counts, Drain, EndReason, Millis, Policy, Progress};

/// A group of streams that share their rules and are counted together.
#[non_exhaustive]
pub struct Route {
    /// The name in metrics and logs.
    pub name: Arc<str>,
    /// The rules.
    pub policy: Arc<Policy>,
    /// The counts of its streams, running ones included.
    pub totals: Arc<Totals>,
    observer: Arc<dyn Observer>,
}

/// Counts of a route's streams since the process started.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Streams opened.
    pub opened: AtomicU64,
    /// Streams running.
    pub active: AtomicU64,
    /// Events passed on.
    pub events: AtomicU64,
    /// Body bytes passed on.
    pub bytes: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
    /// Gaps between the events of a stream, if the policy asks for them.
    pub event_gaps: OnceLock<Box<EventGaps>>,
    /// Whether a field of a backend for this proxy has been ignored, and logged.
    pub(crate) control_ignored: AtomicBool,
    /// What is counted for its limits.
    pub(super) limits: Arc<RouteState>,
}

/// Observes streams: their beginning, their end, and requests that failed before one began.
///
/// Called on the thread that runs the stream, so it must not block; a panic ends the stream and leaves no counter behind. `()`
/// observes nothing.
///
/// For an observer that knows the request a stream belongs to, see [`Route::observed_by`].
pub trait Observer: Send + Sync {
    /// A stream ended; called exactly once for each that was opened.
    fn ended(&self, ended: &Ended<'_>);

    /// A stream begins. The counters do not include it yet.
    fn opened(&self, route: &str, info: &StreamInfo) {
        let _ = (route, info);
    }

    /// The first event of a stream has been read, this long after its request. Not called for streams with a content coding.
    fn first_event(&self, route: &str, info: &StreamInfo, after: Duration) {
        let _ = (route, info, after);
    }

    /// A request that was taken over got no response head from the upstream, or the head could not be written. Not called for an
    /// error of a hook or a module.
    fn failed(&self, route: &str, failure: &Failure) {
        let _ = (route, failure);
    }
}

/// An ended stream.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ended<'a> {
    /// The name of its route.
    pub route: &'a str,
    /// What is known from its request.
    pub info: &'a StreamInfo,
    /// Why it ended.
    pub reason: EndReason,
    /// Whether the client got a response that was closed in order.
    pub clean: bool,
    /// From the hand-over to its end.
    pub duration: Duration,
    /// What it carried.
    pub counts: Counts,
}

impl Observer for () {
    fn ended(&self, _: &Ended<'_>) {}
}

impl Route {
    /// A route with nothing counted yet.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy, observer: Arc<dyn Observer>) -> Arc<Self> {
        Self::with_totals(name.into(), policy, Arc::default(), observer)
    }

    /// The same route with another policy, its counters included. Its streams keep the policy that they began with.
    pub(crate) fn with_policy(&self, policy: Policy) -> Arc<Self> {
        Self::with_totals(self.name.clone(), policy, self.totals.clone(), self.observer.clone())
    }

    fn with_totals(name: Arc<str>, policy: Policy, totals: Arc<Totals>, observer: Arc<dyn Observer>) -> Arc<Self> {
        if policy.event_gaps {
            totals.event_gaps.get_or_init(Box::default);
        }
        Arc::new(Self { name, policy: Arc::new(policy), totals, observer })
    }

    /// The same route, its counters included, for a request whose stream has its own observer, which holds the
    /// request's context, such as the user it belongs to. Only requests that ask for it pay for it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use sse_proxy::{Ended, Observer, Policy, Route};
    ///
    /// struct ForUser(String);
    ///
    /// impl Observer for ForUser {
    ///     fn ended(&self, ended: &Ended<'_>) {
    ///         println!("{} received {} events", self.0, ended.counts.events);
    ///     }
    /// }
    ///
    /// let events = Route::new("events", Policy::default(), Arc::new(()));
    /// let for_alice = events.observed_by(Arc::new(ForUser("alice".to_owned())));
    /// assert!(Arc::ptr_eq(&events.totals, &for_alice.totals));
    /// ```
    pub fn observed_by(&self, observer: Arc<dyn Observer>) -> Arc<Self> {
        let (name, policy, totals) = (self.name.clone(), self.policy.clone(), self.totals.clone());
        Arc::new(Self { name, policy, totals, observer })
    }

    pub(crate) fn failed(&self, failure: &Failure) {
        self.observer.failed(&self.name, failure);
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Route").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Totals {
    /// What is counted for the route's limits.
    pub(crate) fn limits(&self) -> &Arc<RouteState> {
        &self.limits
    }

    pub(super) fn add(&self, progress: Progress) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.events, progress.events);
        add(&self.bytes, progress.bytes);
        add(&self.heartbeats, progress.heartbeats);
    }
}

/// Counts one stream as open in its route, its endpoint and the registry, until it is closed.
pub(super) struct StreamGuard {
    route: Arc<Route>,
    registry: Arc<StreamRegistry>,
    info: StreamInfo,
    /// One more than the key in the registry of a stream that has a task.
    task: Option<NonZeroU32>,
    /// When the last event was read, in milliseconds of the clock that fit; or what is to be done with the next one.
    event_clock: u32,
    opened: Millis,
}

/// The `event_clock` before the first event.
const NO_EVENT: u32 = u32::MAX;

/// The `event_clock` of a stream whose events are not timed any more.
const NOT_TIMED: u32 = u32::MAX - 1;

impl StreamGuard {
    pub(super) fn open(route: Arc<Route>, registry: Arc<StreamRegistry>, mut info: StreamInfo) -> Self {
        // First: if it panics, nothing has been counted.
        route.observer.opened(&route.name, &info);
        route.totals.opened.fetch_add(1, Ordering::Relaxed);
        route.totals.active.fetch_add(1, Ordering::Relaxed);
        if let Some(endpoint) = info.endpoint() {
            endpoint.state.stream_opened();
        }
        registry.stream_opened();
        // After it is counted as running, so that no limit overlooks it.
        info.begun();
        Self { route, registry, info, task: None, event_clock: NO_EVENT, opened: clock::now() }
    }

    /// Registers the waker of a stream that has a task, on the first call.
    pub(super) fn register(&mut self, waker: &std::task::Waker) {
        if self.task.is_none() {
            let key = self.registry.insert_task(waker.clone());
            self.task = u32::try_from(key + 1).ok().and_then(NonZeroU32::new);
        }
    }

    /// The visits that have not come to this stream yet, if it has a task.
    pub(super) fn visits(&self) -> Vec<DueVisit> {
        self.task().map_or_else(Vec::new, |task| self.registry.visits_of(task as usize))
    }

    /// The key in the registry of a stream that has a task.
    pub(super) fn task(&self) -> Option<u32> {
        self.task.map(|task| task.get() - 1)
    }

    pub(super) fn route(&self) -> &Arc<str> {
        &self.route.name
    }

    pub(super) fn info(&self) -> &StreamInfo {
        &self.info
    }

    pub(super) fn opened(&self) -> Millis {
        self.opened
    }

    #[inline]
    pub(super) fn draining(&self) -> Option<Drain> {
        self.registry.draining()
    }

    pub(super) fn add(&self, progress: Progress) {
        self.route.totals.add(progress);
    }

    /// Counts what has been read by `now`; `total` events in all.
    #[inline]
    pub(super) fn add_read(&mut self, progress: Progress, total: u64, now: Millis) {
        self.route.totals.add(progress);
        if progress.events > 0 && self.event_clock != NOT_TIMED {
            self.time_events(progress.events, total, now);
        }
    }

    /// Reports the first event; measures the gaps, if that is asked for.
    #[inline(never)]
    fn time_events(&mut self, events: u64, total: u64, now: Millis) {
        // The lower bits are enough for gaps of up to 49 days.
        let clock = (now.0 as u32).min(NOT_TIMED - 1);
        let (route, info) = (&self.route, &self.info);
        let mut measured = events;
        if total == events {
            let after = info.first_byte() + Duration::from_millis(now.0.saturating_sub(self.opened.0));
            route.observer.first_event(&route.name, info, after);
            measured -= 1;
        }
        let Some(gaps) = route.totals.event_gaps.get().filter(|_| route.policy.event_gaps) else {
            self.event_clock = NOT_TIMED;
            return;
        };
        if self.event_clock != NO_EVENT {
            gaps.add(u64::from(clock.wrapping_sub(self.event_clock)), events);
        } else if measured > 0 {
            gaps.add(0, measured);
        }
        self.event_clock = clock;
    }

    /// Counts and reports the stream as ended. Must be called once.
    pub(super) fn close(&self, reason: EndReason, clean: bool, counts: Counts) {
        let duration = Duration::from_millis(clock::now().0.saturating_sub(self.opened.0));
        let ended = Ended { route: &self.route.name, info: &self.info, reason, clean, duration, counts };
        self.route.totals.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(endpoint) = self.info.endpoint() {
            endpoint.state.stream_ended();
        }
        // After the observer, also if it panics: a drain that is done has reported every end.
        let _left = Left(self);
        self.route.observer.ended(&ended);
    }
}

/// Removes an ended stream from the registry when it is dropped.
struct Left<'a>(&'a StreamGuard);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let registry = &self.0.registry;
        if let Some(task) = self.0.task() {
            registry.remove_task(task as usize);
        }
        registry.stream_ended();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    struct Panics {
        opened: bool,
    }

    impl Observer for Panics {
        fn opened(&self, _: &str, _: &StreamInfo) {
            assert!(!self.opened, "an observer that fails");
        }

        fn ended(&self, _: &Ended<'_>) {
            panic!("an observer that fails");
        }
    }

    /// Invariant: a stream that is over is not counted as running. Mechanism: an observer that panicked left its counters as they
    /// were. Symptom: a drain waits for its whole limit for streams that do not exist.
    #[test]
    fn an_observer_that_panics_leaves_no_stream_counted() {
        for opened in [true, false] {
            let route = Route::new("/", Policy::default(), Arc::new(Panics { opened }));
            let registry = Arc::<StreamRegistry>::default();
            let info = StreamInfo::new(None, None, "GET", "/", Duration::ZERO);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let guard = StreamGuard::open(route.clone(), registry.clone(), info);
                assert_eq!(registry.active(), 1);
                guard.close(EndReason::Drain, true, Counts::default());
            }));
            assert!(outcome.is_err());
            assert_eq!((registry.active(), route.totals.active.load(Ordering::Relaxed)), (0, 0), "{opened}");
        }
    }
}
