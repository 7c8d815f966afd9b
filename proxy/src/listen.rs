//! Listening sockets, bound before anything starts: what cannot be bound is refused with a sentence, and port 0 is known.
//!
//! Pingora binds inside a running service and panics where it cannot. Its table of inherited descriptors, meant for
//! upgrades, takes sockets that are already bound.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{ConnectionFilter, L4BufferSettings, ListenerConfig, TlsAccept, TlsAcceptCallbacks};
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::tls;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::sync::watch;

use crate::config::{Admin, Listen, Tls};
use crate::driver::{self, descriptors};
use crate::threads::Essential;
use crate::wire::request::HeadLimits;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Data of a stream over HTTP/2 that may wait in the proxy for its client's window or its turn, in bytes. The library's
/// default is 400 KiB.
const H2_SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Streams that one HTTP/2 connection may have: the tabs of one browser share it.
const H2_STREAMS_PER_CONNECTION: u32 = 256;

/// How often a service that accepts no connections for want of descriptors looks whether there are some again.
const SCARCITY_POLL: Duration = Duration::from_millis(100);

/// An address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The socket cannot be had.
    #[error("cannot listen on {address}: {source}{}", remedy(source))]
    Bind {
        /// The address as configured.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot speak TLS on {address}: {problem}; cert and key have to be PEM files that belong together")]
    Tls {
        /// The address as configured.
        address: String,
        /// What is wrong.
        problem: String,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: stop that one, or set reuse_port: true on both",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// A bound socket and what is spoken on it.
pub struct Bound {
    /// The address with its real port.
    pub address: SocketAddr,
    /// Whether HTTP/2 is taken without TLS.
    pub h2c: bool,
    tls: Option<TlsSettings>,
    socket: OwnedFd,
}

impl Bound {
    /// What is spoken, for the log.
    pub fn protocol(&self) -> &'static str {
        match (&self.tls, self.h2c) {
            (Some(_), _) => "https, HTTP/2 and HTTP/1.1",
            (None, true) => "http, HTTP/2 and HTTP/1.1",
            (None, false) => "http",
        }
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket alone.
    pub fn into_listener(self) -> TcpListener {
        self.socket.into()
    }

    /// The endpoint for Pingora; it is told to keep no buffers, of which its default are 64 KiB a connection.
    pub fn endpoint(&mut self) -> ListenerConfig {
        let endpoint = ListenerConfig::tcp(self.address.to_string()).l4_buffer(L4BufferSettings::unbuffered());
        match self.tls.take() {
            Some(tls) => endpoint.tls(tls),
            None => endpoint,
        }
    }
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
    let tls = listen.tls.as_ref().map(tls_settings).transpose();
    let tls = tls.map_err(|problem| ListenError::Tls { address: listen.address.clone(), problem })?;
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
    let address = listen.address.to_socket_addrs()?.next().ok_or_else(not_found)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(listen.reuse_port)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it: a client that has vanished without a word is found in the end, also where nothing is
    // ever sent to it.
    if let Some(keep_alive) = listen.tcp_keepalive.get() {
        driver::keep_alive(SockRef::from(&socket), keep_alive)?;
        // Probes are for silent connections. What a client does not acknowledge ends its connection after the same time.
        let patience = keep_alive.idle + keep_alive.interval * keep_alive.count;
        socket.set_tcp_user_timeout(Some(patience))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    Ok((listener.local_addr()?, listener.into()))
}

/// Checks that a listener's certificate and key can be used, without binding anything.
///
/// # Errors
/// When they cannot.
pub fn check_tls(listen: &Listen) -> Result<(), ListenError> {
    let Some(tls) = &listen.tls else { return Ok(()) };
    let problem = tls_settings(tls).err();
    problem.map_or(Ok(()), |problem| Err(ListenError::Tls { address: listen.address.clone(), problem }))
}

/// Pingora would load the files when a service starts, and panic over what is wrong with them.
fn tls_settings(config: &Tls) -> Result<TlsSettings, String> {
    tls::install_default_crypto_provider();
    for file in [&config.cert, &config.key] {
        std::fs::File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let (cert, key) = (config.cert.to_string_lossy(), config.key.to_string_lossy());
    let loaded = tls::load_certs_and_key_files(&cert, &key).map_err(|error| format!("{cert}, {key}: {error}"))?;
    let Some((chain, private)) = loaded else {
        return Err(format!("{cert} holds no certificate, or {key} no private key"));
    };
    let provider = tls::CryptoProvider::get_default().ok_or("no cryptography is installed")?;
    let certified = tls::sign::CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| format!("{cert}, {key}: {error}"))?;
    let no_callbacks: TlsAcceptCallbacks = Box::new(NoCallbacks);
    let mut settings = TlsSettings::with_callbacks(no_callbacks).map_err(|error| error.to_string())?;
    settings.set_cert_resolver(Arc::new(tls::sign::SingleCertAndKey::from(certified)));
    settings.enable_h2();
    Ok(settings)
}

/// Settings without certificate files can only be made with callbacks; there is nothing to call back for.
struct NoCallbacks;

#[async_trait]
impl TlsAccept for NoCallbacks {}

/// Lets Pingora's services accept only while descriptors are left for others than clients: until then they wait, and with them
/// the connections in the kernel's queue.
#[derive(Debug)]
pub(crate) struct WhileDescriptorsLast;

#[async_trait]
impl ConnectionFilter for WhileDescriptorsLast {
    async fn should_accept(&self, _: Option<&SocketAddr>) -> bool {
        while descriptors::are_scarce() {
            tokio::time::sleep(SCARCITY_POLL).await;
        }
        true
    }
}

/// A service whose endpoints are already bound.
pub struct Prebound<S> {
    service: S,
    bound: Vec<Bound>,
    /// What the service is told of a shutdown, where that is not what others are told.
    shutdown: Option<watch::Receiver<bool>>,
    /// Its sender: without it the receiver would report a shutdown.
    _never: Option<watch::Sender<bool>>,
}

impl<S> Prebound<S> {
    /// Gives `service` the sockets. Its endpoints have to name exactly the bound addresses.
    pub fn new(service: S, bound: Vec<Bound>) -> Self {
        Self { service, bound, shutdown: None, _never: None }
    }

    /// The same for a service that goes on through a drain, until the process exits.
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
                // From here the socket is the service's, which closes it when it stops.
                table.add(bound.address.to_string(), bound.socket.into_raw_fd());
            }
        }
        // A panic here would leave the listeners bound with nobody to accept from them.
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
