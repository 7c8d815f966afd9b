//! The non-blocking socket that both drivers give to the rules in [`super::drive`].

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::SockRef;

/// A connection that never waits: what cannot be done now is [`io::ErrorKind::WouldBlock`], and the driver comes back
/// when it can.
pub(crate) trait Socket {
    /// Reads what there is; 0 is the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether bytes wait to be read, as far as that can be told without reading them.
    fn has_unread(&mut self) -> bool;

    /// Whether the peer has closed the connection, also where bytes that it sent before have not been read, as far as that
    /// can be told.
    fn peer_has_closed(&mut self) -> bool {
        false
    }

    /// Writes what fits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends on what a write left in a buffer of the connection's own.
    fn flush(&mut self) -> io::Result<()>;

    /// Ends the writing direction in order.
    fn shutdown(&mut self) -> io::Result<()>;

    /// Makes closing tell the peer that something went wrong: the connection is reset instead of ended. Where a reset would
    /// overtake what has been written, that is waited for, unless the peer has been `abandoned`.
    fn reset_on_close(&mut self, abandoned: bool) -> io::Result<()>;
}

/// Whether an error only says "not now".
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Whether a plain socket has bytes that wait to be read.
pub(crate) fn has_readable_bytes(socket: SockRef<'_>) -> bool {
    socket.peek(&mut [MaybeUninit::uninit()]).is_ok_and(|count| count > 0)
}

/// Makes closing a socket reset its connection.
pub(super) fn reset(socket: SockRef<'_>) {
    // A connection that cannot be reset is closed: the peer is told less, nothing is held.
    let _ = socket.set_linger(Some(Duration::ZERO));
}
