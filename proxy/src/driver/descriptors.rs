//! Descriptors that clients and their upstreams may not take: they are for the admin listener, and for reading what is wrong.
//!
//! The kernel gives each new descriptor the lowest number that is free. So a number says how many are taken at least, without
//! counting: one at the threshold says that everything below it is.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// How many are kept. An operator's page takes one, and so do its files.
const RESERVE: u64 = 32;

/// Numbers from here on are in the reserve.
static THRESHOLD: AtomicI32 = AtomicI32::new(i32::MAX);

/// Keeps some of the descriptors that the process may have; `None` where there is no limit. Less of a small limit.
pub(crate) fn reserve(limit: Option<u64>) {
    let threshold = limit.map_or(i32::MAX, |limit| i32::try_from(limit - RESERVE.min(limit / 4)).unwrap_or(i32::MAX));
    THRESHOLD.store(threshold, Ordering::Relaxed);
}

/// Whether a new descriptor has come out of the reserve.
pub(crate) fn is_reserved(descriptor: RawFd) -> bool {
    descriptor >= THRESHOLD.load(Ordering::Relaxed)
}

/// Whether the next descriptor would come out of the reserve. Two system calls: for when it has come to that already.
pub(crate) fn are_scarce() -> bool {
    eventfd(0, EventfdFlags::CLOEXEC).map_or(true, |next| is_reserved(next.as_raw_fd()))
}

/// The error of a descriptor that cannot be had.
pub(crate) fn none_left() -> io::Error {
    rustix::io::Errno::MFILE.into()
}
