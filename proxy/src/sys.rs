//! The one place with `unsafe`: descriptors that Pingora lends only by number, and the allocator's arenas.
//!
//! Taking the bare socket out of Pingora's stream saves about 1.6 KiB per stream, and no safe way leads to it.
#![allow(unsafe_code)]

mod arena;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

pub(crate) use arena::{on_unused_pages, tune_allocator};

/// Duplicates the descriptor of a live stream (`dup`, close-on-exec).
///
/// # Errors
/// When the descriptor limit is reached.
pub(crate) fn duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: callers pass the id of a stream that they hold for the length of the call, so the descriptor is open
    // and not reused; it is borrowed for this expression only.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}

/// Calls `apply` with the socket of a live stream, unless the stream has none: its id is negative then.
pub(crate) fn with_socket(descriptor: RawFd, apply: impl FnOnce(SockRef<'_>)) {
    if descriptor < 0 {
        return;
    }
    // SAFETY: as above; the reference cannot outlive the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    apply(SockRef::from(&borrowed));
}

/// Whether the peer of a live stream has closed its side, even if earlier bytes have not been read.
pub(crate) fn peer_has_closed(descriptor: RawFd) -> bool {
    let mut closed = false;
    with_socket(descriptor, |socket| {
        let mut watched = [PollFd::new(&*socket, PollFlags::RDHUP)];
        closed = poll(&mut watched, Some(&Timespec::default())).is_ok_and(|count| count > 0);
    });
    closed
}
