//! Opens a connection from a chosen source address, and over TLS where that is asked for.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::end::EndReason;
use super::tls::Connector;
use super::{Io, Shared};

/// The way to a server.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The address to connect to.
    pub destination: SocketAddr,
    /// For TLS: the connector, and the name that the certificate has to be for.
    pub tls: Option<(&'a Connector, &'a str)>,
    /// How long connecting may take, handshakes included.
    pub timeout: Duration,
}

impl Route<'_> {
    /// Connects, and makes of the connection what `finish` does; counts the connection and the time until `finish` was done.
    pub(super) async fn establish<T>(
        &self,
        shared: &RefCell<Shared>,
        finish: impl AsyncFnOnce(Io) -> Result<T, EndReason>,
    ) -> Result<T, EndReason> {
        let started = Instant::now();
        let connecting = async {
            let io = connect(self.source, self.destination).await.map_err(|error| EndReason::from_io(&error))?;
            finish(self.encrypt(io, shared).await?).await
        };
        let connected = timeout(self.timeout, connecting).await.map_err(|_| EndReason::ConnectTimeout)??;
        let record = &mut shared.borrow_mut().record;
        record.connect_us.record(started.elapsed().as_micros() as u64);
        record.counts.connected += 1;
        Ok(connected)
    }

    async fn encrypt(&self, io: TcpStream, shared: &RefCell<Shared>) -> Result<Io, EndReason> {
        let Some((connector, name)) = self.tls else { return Ok(Io::Plain(io)) };
        let started = Instant::now();
        let stream = connector.connect(name, io).await?;
        shared.borrow_mut().record.tls_handshake_us.record(started.elapsed().as_micros() as u64);
        Ok(Io::Tls(Box::new(stream)))
    }
}

/// Connects to `destination`, from `source` if one is given. Cancel-safe: dropping it closes the socket.
///
/// # Errors
/// What the system says.
pub async fn connect(source: Option<IpAddr>, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        // Leaves the choice of port to `connect`: then the four-tuple has to be unique, not the port alone.
        if source.is_ipv4() {
            nix::sys::socket::setsockopt(&socket, IpBindAddressNoPort, &true)?;
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(destination).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
