//! Reserves descriptors for the admin listener and for diagnosis: client and upstream connections must not use them.
//!
//! The kernel assigns the lowest free number to each new descriptor. So a descriptor at the threshold means that all
//! lower numbers are in use, without counting.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Size of the reserve. Each admin connection takes one descriptor, and so does each file that it reads.
const RESERVE: u64 = 32;

/// The largest number of descriptors below the reserve that streams must not use: they are for the connections of
/// requests that are refused meanwhile, and for pages.
const HEADROOM: i32 = 512;

/// Descriptors from this number on are in the reserve.
static THRESHOLD: AtomicI32 = AtomicI32::new(i32::MAX);

/// Sets the reserve for a descriptor limit; `None` is no limit. A small limit gets a smaller reserve.
pub(crate) fn reserve(limit: Option<u64>) {
    let threshold = limit.map_or(i32::MAX, |limit| i32::try_from(limit - RESERVE.min(limit / 4)).unwrap_or(i32::MAX));
    THRESHOLD.store(threshold, Ordering::Relaxed);
}

/// Whether a new descriptor is in the reserve.
pub(crate) fn is_reserved(descriptor: RawFd) -> bool {
    descriptor >= THRESHOLD.load(Ordering::Relaxed)
}

/// Whether the next descriptor would be in the reserve. Costs two system calls, so it is for when descriptors have run
/// short.
pub(crate) fn are_scarce() -> bool {
    eventfd(0, EventfdFlags::CLOEXEC).map_or(true, |next| is_reserved(next.as_raw_fd()))
}

/// The largest number of streams for which one answer of the kernel holds; they fit into a small part of the headroom.
const LARGEST_STEP: usize = 32;

/// How often [`are_short_for_streams`] was asked since it last asked the kernel.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Whether a stream that begins now would use descriptors that others need. While `streams`, the number of those that
/// run or open, take less than half of the descriptors, this asks the kernel nothing. Beyond, it asks for every 32nd stream,
/// or more often where the limit is small, and for each while descriptors are short.
pub(crate) fn are_short_for_streams(streams: usize) -> bool {
    let threshold = THRESHOLD.load(Ordering::Relaxed);
    if threshold == i32::MAX || streams.saturating_mul(4) < usize::try_from(threshold).unwrap_or(0) {
        return false;
    }
    let headroom = HEADROOM.min(threshold / 32);
    let step = usize::try_from(headroom / 16).unwrap_or(1).clamp(1, LARGEST_STEP);
    if !ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(step) {
        return false;
    }
    let short = eventfd(0, EventfdFlags::CLOEXEC).map_or(true, |next| next.as_raw_fd() >= threshold - headroom);
    if short {
        // The next stream asks again.
        ASKED.store(0, Ordering::Relaxed);
    }
    short
}

/// The error when no descriptor is left outside the reserve.
pub(crate) fn none_left() -> io::Error {
    rustix::io::Errno::MFILE.into()
}
