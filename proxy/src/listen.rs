//! Listening sockets, bound before anything starts: what cannot be bound is refused with a sentence, and port 0 is known.
//!
//! Pingora binds inside a running service and panics where it cannot. Its table of inherited descriptors, meant for
//! upgrades, takes sockets that are already bound.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{IntoRawFd, OwnedFd};

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::config::Listen;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// An address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}{}", remedy(source))]
pub struct ListenError {
    address: String,
    #[source]
    source: io::Error,
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: stop that one, or set reuse_port: true on both",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Bound {
    /// The address with its real port.
    pub address: SocketAddr,
    socket: OwnedFd,
}

/// Binds and listens. Connections queue until a service accepts them.
///
/// # Errors
/// When the address does not resolve or cannot be bound.
pub fn bind(listen: &Listen) -> Result<Bound, ListenError> {
    let bound = || -> io::Result<Bound> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        let address = listen.address.to_socket_addrs()?.next().ok_or_else(not_found)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(listen.reuse_port)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        Ok(Bound { address: listener.local_addr()?, socket: listener.into() })
    };
    bound().map_err(|source| ListenError { address: listen.address.clone(), source })
}

/// A service whose endpoints are already bound.
pub struct Prebound<S> {
    service: S,
    bound: Vec<Bound>,
}

impl<S> Prebound<S> {
    /// Gives `service` the sockets. Its endpoints have to name exactly the bound addresses.
    pub fn new(service: S, bound: Vec<Bound>) -> Self {
        Self { service, bound }
    }
}

#[async_trait]
impl<S: Service> Service for Prebound<S> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        if let Some(fds) = &fds {
            let mut table = fds.lock();
            for bound in self.bound.drain(..) {
                // From here the socket is the service's, which closes it when it stops.
                table.add(bound.address.to_string(), bound.socket.into_raw_fd());
            }
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}
