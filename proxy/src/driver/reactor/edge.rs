//! A socket whose readiness the kernel reports once, as edge-triggered epoll does.

use std::io::{self, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;

use crate::driver::socket::{Socket, has_readable_bytes, reset, would_block};

/// The readiness that the kernel reported for a socket and that has not been used up. It reports each change once.
#[derive(Clone, Copy, Default)]
pub(super) struct Readable {
    now: bool,
    /// The peer closed its side, or the connection failed: no further event follows.
    ended: bool,
}

impl Readable {
    /// For a socket that may have become readable before it was registered.
    pub(super) fn assumed() -> Self {
        Self { now: true, ended: false }
    }

    /// Makes the next read try the socket.
    pub(super) fn assume(&mut self) {
        self.now = true;
    }

    /// Records an event.
    pub(super) fn record(&mut self, event: &Event) {
        let ended = event.is_read_closed() || event.is_error();
        self.now |= event.is_readable() || ended;
        self.ended |= ended;
    }
}

/// A socket that is read only after the kernel reported it readable, until a read would block.
pub(super) struct Edge<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) readable: &'a mut Readable,
}

impl Socket for Edge<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.readable.now {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    // A short read has emptied the socket. Later bytes are reported again, but an end that was reported
                    // already still has to be read.
                    let all = result.as_ref().is_ok_and(|count| *count < buffer.len()) && !self.readable.ended;
                    if all || result.as_ref().is_err_and(would_block) {
                        self.readable.now = false;
                    }
                    return result;
                }
            }
        }
    }

    fn has_unread(&mut self) -> bool {
        has_readable_bytes(SockRef::from(self.socket))
    }

    fn peer_has_closed(&mut self) -> bool {
        self.readable.ended
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    fn reset_on_close(&mut self, _abandoned: bool) -> io::Result<()> {
        reset(SockRef::from(self.socket));
        Ok(())
    }
}
