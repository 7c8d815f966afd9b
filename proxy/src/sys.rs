//! The one place with `unsafe`: descriptors that Pingora lends only by number, and the allocator's arenas.
//!
//! Taking the bare socket out of Pingora's stream saves about 1.6 KiB per stream, and no safe way leads to it.
#![allow(unsafe_code)]

mod arena;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

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

/// Whether nothing has arrived from the peer of a live stream that has not been read, not even the end.
pub(crate) fn is_silent(descriptor: RawFd) -> bool {
    let mut silent = true;
    with_socket(descriptor, |socket| {
        let peeked = socket.peek(&mut [MaybeUninit::uninit()]);
        silent = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    });
    silent
}

/// Whether closing a live stream resets its connection.
pub(crate) fn resets_on_close(descriptor: RawFd) -> bool {
    let mut resets = false;
    with_socket(descriptor, |socket| resets = socket.linger().is_ok_and(|limit| limit == Some(Duration::ZERO)));
    resets
}

/// Bytes that the peer of a live TCP connection has acknowledged so far; `None` where the kernel does not count them.
pub(crate) fn acknowledged_bytes(descriptor: RawFd) -> Option<u64> {
    /// The place of `tcpi_bytes_acked` in `struct tcp_info`, in units of eight bytes (Linux 4.1 and later).
    const BYTES_ACKED: usize = 15;
    let mut info = [0_u64; BYTES_ACKED + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    let expected = length;
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the kernel writes at most `length` bytes to `info`, and any bytes are valid for it.
    let result = unsafe {
        libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    (result == 0 && length == expected).then_some(info[BYTES_ACKED])
}

/// Whether the peer of a live stream has closed its side, even if earlier bytes have not been read.
pub(crate) fn peer_has_closed(descriptor: RawFd) -> bool {
    is_ready(descriptor, PollFlags::RDHUP)
}

/// Whether the kernel has room for a write to a live stream. If it has not, the next readiness event says that it has.
pub(crate) fn is_writable(descriptor: RawFd) -> bool {
    is_ready(descriptor, PollFlags::OUT)
}

fn is_ready(descriptor: RawFd, events: PollFlags) -> bool {
    let mut ready = false;
    with_socket(descriptor, |socket| {
        let mut watched = [PollFd::new(&*socket, events)];
        ready = poll(&mut watched, Some(&Timespec::default())).is_ok_and(|count| count > 0);
    });
    ready
}
