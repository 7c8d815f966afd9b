//! Listening sockets, bound before anything starts, so that a failure is reported as an error and the real port is
//! known.
//!
//! Pingora binds inside a running service and panics on failure. Its table of inherited descriptors, meant for
//! upgrades, accepts sockets that are already bound.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::listeners::{TlsAccept, TlsAcceptCallbacks};
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::sync::watch;

use crate::certificate::{self, Served};
use crate::config::{Admin, Listen, Problem, Tls};
use crate::driver;
use crate::threads::Essential;
use crate::wire::proxy_protocol::ProxyProtocol;
use crate::wire::request::HeadLimits;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Limit on the data of an HTTP/2 stream that is buffered in the proxy, in bytes. The library's default is 400 KiB.
const H2_SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Limit on the streams of one HTTP/2 connection, which the tabs of a browser share.
const H2_STREAMS_PER_CONNECTION: u32 = 256;

/// An address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address does not resolve, or cannot be bound.
    #[error("cannot listen on {address}: {source}{}", remedy(source))]
    Bind {
        /// The address as configured.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use TLS on {address}: {problem}")]
    Tls {
        /// The address as configured.
        address: String,
        /// The key that names the file, and what is wrong with it.
        problem: Problem,
    },
}

impl ListenError {
    /// Whether a socket has the address already.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process uses it: stop that process, use another address, or set reuse_port: true for both listeners"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// A bound socket and its protocols.
pub struct Bound {
    /// The address with its real port.
    pub address: SocketAddr,
    /// Whether HTTP/2 without TLS is accepted.
    pub h2c: bool,
    tls: Option<TlsEndpoint>,
    socket: OwnedFd,
}

/// What a listener for TLS has beside its socket.
#[derive(Clone)]
pub struct TlsEndpoint {
    /// Completes handshakes.
    pub(crate) acceptor: Arc<Acceptor>,
    /// What handshakes are given.
    pub(crate) certificate: Arc<Served>,
    /// Of the files that it was read from.
    pub(crate) fingerprint: u64,
}

impl Bound {
    /// The socket, and what it has for TLS.
    pub fn into_parts(self) -> (TcpListener, Option<TlsEndpoint>) {
        (self.socket.into(), self.tls)
    }
}

/// The protocols of a listener, for the log.
pub(crate) fn protocol(listen: &Listen) -> String {
    let protocol = match (&listen.tls, listen.h2c) {
        (Some(_), _) => "https, HTTP/2 and HTTP/1.1",
        (None, true) => "http, HTTP/2 and HTTP/1.1",
        (None, false) => "http",
    };
    let header = match listen.proxy_protocol {
        ProxyProtocol::Off => "",
        ProxyProtocol::Optional => ", PROXY protocol optional",
        ProxyProtocol::Required => ", PROXY protocol required",
    };
    format!("{protocol}{header}")
}

/// The HTTP/2 settings of every listener that speaks it.
pub fn h2_options(limits: &HeadLimits) -> H2Options {
    let mut options = default_h2_options();
    options.max_send_buffer_size(H2_SEND_BUFFER_BYTES);
    options.max_concurrent_streams(H2_STREAMS_PER_CONNECTION);
    options.max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
    options
}

/// Loads the certificate, binds and listens. Connections queue until a service or a reactor accepts them.
///
/// # Errors
/// When the certificate cannot be used, the address does not resolve, or it cannot be bound.
pub fn bind(listen: &Listen) -> Result<Bound, ListenError> {
    let tls = tls_endpoint(listen)?;
    let (address, socket) =
        bind_socket(listen).map_err(|source| ListenError::Bind { address: listen.address.clone(), source })?;
    Ok(Bound { address, h2c: listen.h2c, tls, socket })
}

/// Binds the admin listener, as [`bind`] does.
///
/// # Errors
/// When the address does not resolve or cannot be bound.
pub fn bind_admin(admin: &Admin) -> Result<Bound, ListenError> {
    bind(&Listen { address: admin.address.clone(), ..Listen::default() })
}

fn bind_socket(listen: &Listen) -> io::Result<(SocketAddr, OwnedFd)> {
    let not_found = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let address = resolve(&listen.address)?.ok_or_else(not_found)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(listen.reuse_port)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit both.
    socket.set_tcp_nodelay(true)?;
    set_keep_alive(&socket, listen)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    Ok((listener.local_addr()?, listener.into()))
}

/// The address that a listener binds, if its name has one.
pub(crate) fn resolve(address: &str) -> io::Result<Option<SocketAddr>> {
    Ok(address.to_socket_addrs()?.next())
}

/// Sets the keep-alive of connections that will be accepted: a vanished client is detected even if nothing is ever sent to it.
pub(crate) fn set_keep_alive(socket: &impl AsFd, listen: &Listen) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let Some(keep_alive) = listen.tcp_keepalive.get() else {
        socket.set_keepalive(false)?;
        return socket.set_tcp_user_timeout(None);
    };
    driver::keep_alive(SockRef::from(&*socket), keep_alive)?;
    // Probes are sent on silent connections only. Unacknowledged data ends a connection after the same time.
    let patience = keep_alive.idle + keep_alive.interval * keep_alive.count;
    socket.set_tcp_user_timeout(Some(patience))
}

/// Loads the certificate of a listener, if it uses TLS.
///
/// # Errors
/// When it cannot be used.
pub(crate) fn tls_endpoint(listen: &Listen) -> Result<Option<TlsEndpoint>, ListenError> {
    let tls = listen.tls.as_ref().map(new_tls_endpoint).transpose();
    tls.map_err(|problem| ListenError::Tls { address: listen.address.clone(), problem })
}

/// Loads the files here, because Pingora loads them when a service starts and panics on an error.
fn new_tls_endpoint(config: &Tls) -> Result<TlsEndpoint, Problem> {
    let certificate = certificate::load(config)?;
    let (served, fingerprint) = (Served::new(certificate.key), certificate.fingerprint);
    let no_callbacks: TlsAcceptCallbacks = Box::new(NoCallbacks);
    let mut settings = TlsSettings::with_callbacks(no_callbacks)
        .map_err(|error| Problem::new(&["cert"], format!("cannot be used: {error}"), "report this: it is a bug"))?;
    settings.set_cert_resolver(served.clone());
    settings.enable_h2();
    Ok(TlsEndpoint { acceptor: Arc::new(settings.build()), certificate: served, fingerprint })
}

/// Pingora's settings without certificate files require callbacks; these do nothing.
struct NoCallbacks;

#[async_trait]
impl TlsAccept for NoCallbacks {}

/// A service whose endpoints are already bound.
pub struct Prebound<S> {
    service: S,
    bound: Vec<Bound>,
    /// The service's own shutdown signal, in place of the server's.
    shutdown: Option<watch::Receiver<bool>>,
    /// Its sender, kept because dropping it would report a shutdown.
    _never: Option<watch::Sender<bool>>,
}

impl<S> Prebound<S> {
    /// Passes the sockets to `service`, whose endpoints must have exactly the bound addresses, and which runs through a drain,
    /// until the process exits.
    pub fn until_exit(service: S, bound: Vec<Bound>) -> Self {
        let (never, shutdown) = watch::channel(false);
        Self { service, bound, shutdown: Some(shutdown), _never: Some(never) }
    }
}

#[async_trait]
impl<S: Service> Service for Prebound<S> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        if let Some(fds) = &fds {
            let mut table = fds.lock();
            for bound in self.bound.drain(..) {
                // The service owns the socket from here and closes it when it stops.
                table.add(bound.address.to_string(), bound.socket.into_raw_fd());
            }
        }
        // A panic here would leave the listeners bound with nothing accepting from them.
        let _essential = Essential::new(self.service.name());
        let shutdown = self.shutdown.clone().unwrap_or(shutdown);
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}
