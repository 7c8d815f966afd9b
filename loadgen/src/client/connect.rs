//! Opens a connection from a chosen source address, with or without TLS.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::end::EndReason;
use super::io::Io;
use super::shared::Shared;
use super::tls::Connector;
use crate::clock::unix_us;

/// How to connect to a server.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The addresses to connect to: those of one name.
    pub destinations: &'a [SocketAddr],
    /// Which of them is tried first: the one that has accepted last.
    pub preferred: &'a Cell<usize>,
    /// For TLS: the connector, and the name that the certificate must be valid for.
    pub tls: Option<(&'a Connector, &'a str)>,
    /// How long connecting may take, handshakes included.
    pub timeout: Duration,
    /// When the ramp had the stream due that asks for the connection, Unix µs.
    pub due_us: u64,
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
            let io = self.connect_any().await?;
            finish(self.encrypt(io, shared).await?).await
        };
        let connected = timeout(self.timeout, connecting).await.map_err(|_| EndReason::ConnectTimeout)??;
        let record = &mut shared.borrow_mut().record;
        record.connect_us.record(started.elapsed().as_micros() as u64);
        record.connect_from_due_us.record_between(self.due_us, unix_us());
        record.counts.connected += 1;
        Ok(connected)
    }

    /// Connects to the first address that accepts; the reason is the last one's. An address that does not answer gets an even
    /// share of the time.
    async fn connect_any(&self) -> Result<TcpStream, EndReason> {
        let is_usable = |at: &usize| self.source.is_none_or(|own| own.is_ipv4() == self.destinations[*at].is_ipv4());
        let first = self.preferred.get();
        let order = (0..self.destinations.len()).map(|at| (first + at) % self.destinations.len()).filter(is_usable);
        let order: Vec<usize> = order.collect();
        let deadline = Instant::now() + self.timeout;
        let mut reason = EndReason::NoAddress;
        for (tried, at) in order.iter().enumerate() {
            let share = deadline.saturating_duration_since(Instant::now()) / (order.len() - tried) as u32;
            reason = match timeout(share, connect(self.source, self.destinations[*at])).await {
                Ok(Ok(io)) => {
                    self.preferred.set(*at);
                    return Ok(io);
                }
                Ok(Err(error)) => EndReason::from_io(&error),
                Err(_) => EndReason::ConnectTimeout,
            };
            // Another address would not help.
            if matches!(reason, EndReason::NoDescriptor | EndReason::NoPort) {
                break;
            }
        }
        Err(reason)
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
        // Leaves the choice of port to `connect`: then only the four-tuple must be unique, not the port.
        if source.is_ipv4() {
            nix::sys::socket::setsockopt(&socket, IpBindAddressNoPort, &true)?;
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(destination).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    /// An address that refuses connections.
    fn closed() -> SocketAddr {
        // Nothing listens on TCP there, and UDP keeps the number from being handed out.
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
    }

    /// An address that does not answer: its queue is full, and what comes is dropped.
    fn silent() -> (Socket, Vec<Socket>, SocketAddr) {
        let tcp = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        let listener = tcp();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        listener.listen(0).expect("a queue");
        let address = listener.local_addr().expect("an address").as_socket().expect("of IP");
        let mut clients = Vec::new();
        for _ in 0..8 {
            let client = tcp();
            client.set_nonblocking(true).expect("a flag");
            let _ = client.connect(&address.into());
            clients.push(client);
        }
        (listener, clients, address)
    }

    async fn establish(route: Route<'_>) -> Result<SocketAddr, EndReason> {
        let shared = RefCell::new(Shared::new(1));
        let connected = route.establish(&shared, async |io| Ok(io)).await;
        connected.map(|io| match io {
            Io::Plain(io) => io.peer_addr().expect("connected"),
            Io::Tls(_) => panic!("not encrypted"),
        })
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried_before_it_counts_as_refused() {
        // Invariant: a stream fails only when no address of its name accepts. Only the first address was tried, so that a
        // name with a closed IPv6 address in front was `refused` where curl connects.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let open = listener.local_addr().expect("an address");
        let ipv6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], open.port()));
        let (closed, (_queue, _clients, silent)) = (closed(), silent());
        let any = Some(IpAddr::from([127, 0, 0, 1]));
        for (addresses, source, expected) in [
            (vec![open], None, Ok(open)),
            (vec![closed, open], None, Ok(open)),
            (vec![closed, ipv6, open], None, Ok(open)),
            (vec![ipv6, open], any, Ok(open)),
            (vec![silent, open], None, Ok(open)),
            (vec![closed, closed], None, Err(EndReason::Refused)),
            (vec![closed, silent], None, Err(EndReason::ConnectTimeout)),
            (vec![ipv6], any, Err(EndReason::NoAddress)),
        ] {
            let (preferred, timeout) = (Cell::new(0), Duration::from_millis(600));
            let route =
                Route { source, destinations: &addresses, preferred: &preferred, tls: None, timeout, due_us: 0 };
            assert_eq!(establish(route).await, expected, "{addresses:?}");
            if expected.is_ok() {
                assert_eq!(addresses[preferred.get()], open, "the one that has accepted comes first the next time");
                assert_eq!(establish(route).await, expected, "{addresses:?}");
            }
        }
    }
}
