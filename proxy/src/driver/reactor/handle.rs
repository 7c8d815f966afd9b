//! Commands to a reactor's thread from other threads: streams, connections, listeners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use mio::net::{TcpListener, TcpStream};

use super::handler::ConnectionHandler;
use crate::driver::drive::ActiveStream;
use crate::driver::visit::Visit;

/// A command to a reactor.
pub(in crate::driver) enum Command {
    /// Run a stream.
    Stream(Box<NewStream>),
    /// Handle a connection that another reactor accepted.
    Connection(Accepted),
    /// Accept from a listener.
    Listen(ReactorListener),
    /// Accept what is queued at the listener of this number, and close it; report once it is closed.
    Close(u64, Sender<()>),
    /// Answer, to show that the thread is alive.
    Answer(Sender<()>),
    /// Show every stream to a visitor. The reactor's number, from 1, is part of their names.
    Visit(Arc<Visit>, u32),
}

/// A stream that no reactor has in its table yet.
pub(in crate::driver) struct NewStream {
    pub(in crate::driver) stream: ActiveStream,
    pub(in crate::driver) client: TcpStream,
    pub(in crate::driver) upstream: TcpStream,
}

/// A listener, and where its connections go.
pub(in crate::driver) struct ReactorListener {
    /// The number by which it is closed.
    pub(in crate::driver) id: u64,
    pub(in crate::driver) listener: TcpListener,
    pub(in crate::driver) handler: Arc<dyn ConnectionHandler>,
    /// Every reactor, the accepting one first.
    pub(in crate::driver) reactors: Arc<[Handle]>,
}

/// An accepted connection that no reactor has in its table yet.
pub(in crate::driver) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) handler: Arc<dyn ConnectionHandler>,
}

/// Sends commands to one reactor.
pub(in crate::driver) struct Handle {
    pub(in crate::driver) commands: Sender<Command>,
    pub(in crate::driver) waker: Arc<mio::Waker>,
    /// Set when the thread has been woken and has not taken its commands yet: one system call is enough for a burst.
    pub(in crate::driver) woken: Arc<AtomicBool>,
}

impl Handle {
    /// Queues a command and wakes the reactor.
    ///
    /// # Errors
    /// When the reactor's thread has ended, or cannot be woken.
    pub(in crate::driver) fn send(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| io::Error::other("the reactor's thread has ended"))?;
        if self.woken.swap(true, Ordering::AcqRel) { Ok(()) } else { self.waker.wake() }
    }

    /// Passes an accepted connection to the reactor. Closes it when that fails.
    pub(super) fn send_connection(&self, accepted: Accepted) {
        if let Err(error) = self.send(Command::Connection(accepted)) {
            log::error!("connection dropped: side=internal: {error}");
        }
    }
}
