//! The non-blocking socket that both drivers give to the rules in [`super::drive`].

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::SockRef;

/// A non-blocking connection: an operation that would block fails with [`io::ErrorKind::WouldBlock`], and the driver
/// retries it when the socket is ready.
pub(crate) trait Socket {
    /// Reads what is available; 0 is the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether there are bytes to read, as far as that is known without reading them.
    fn has_unread(&mut self) -> bool;

    /// Whether the peer has closed the connection, even if earlier bytes have not been read, as far as that is known.
    fn peer_has_closed(&mut self) -> bool {
        false
    }

    /// Writes what fits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends what writes have left in the connection's own buffer.
    fn flush(&mut self) -> io::Result<()>;

    /// Shuts the write side down in order.
    fn shutdown(&mut self) -> io::Result<()>;

    /// Makes closing reset the connection, so that the peer sees an error. Where the reset could overtake written
    /// bytes, waits for them first, unless the peer is `abandoned`.
    fn reset_on_close(&mut self, abandoned: bool) -> io::Result<()>;
}

/// Whether the operation failed only because it would block.
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Whether a plain socket has bytes to read.
pub(crate) fn has_readable_bytes(socket: SockRef<'_>) -> bool {
    socket.peek(&mut [MaybeUninit::uninit()]).is_ok_and(|count| count > 0)
}

/// Makes closing a socket reset its connection.
pub(super) fn reset(socket: SockRef<'_>) {
    // A connection that cannot be reset is closed instead.
    let _ = socket.set_linger(Some(Duration::ZERO));
}
