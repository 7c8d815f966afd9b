//! Connects to one of an upstream's servers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pingora::ErrorType;
use pingora::connectors::TransportConnector;
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{Peer, Scheme};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::connection::Connection;
use crate::driver;
use crate::failure::Failure;
use crate::stream::KeepAlive;

/// Receive buffer of an upstream's socket, in bytes (the kernel doubles it for its bookkeeping). Setting it ends
/// autotuning, which would let megabytes collect for a client that does not read.
pub(super) const UPSTREAM_RECEIVE_BYTES: usize = 64 * 1024;

/// Tries the servers in their order. Nothing has been sent yet, so trying the next is always safe.
pub(super) async fn connect(
    connector: &TransportConnector,
    peers: &[HttpPeer],
    limit: Option<Duration>,
) -> Result<(Connection, Option<SocketAddr>), Failure> {
    let mut failure = Failure::NoServer;
    for peer in peers {
        let connected = match plain_address(peer) {
            Some(address) => within(limit, connect_plain(address, peer)).await,
            None => within(limit, connect_with_options(connector, peer)).await,
        };
        failure = match connected {
            Ok(Ok(connection)) => return Ok((connection, peer.address().as_inet().copied())),
            Ok(Err(source)) => Failure::Connect { peer: peer.address().to_string(), source },
            Err(limit) => Failure::ConnectTimeout { peer: peer.address().to_string(), limit },
        };
    }
    Err(failure)
}

async fn connect_with_options(connector: &TransportConnector, peer: &HttpPeer) -> Result<Connection, Box<Error>> {
    let mut peer = peer.clone();
    peer.options.tcp_recv_buf.get_or_insert(UPSTREAM_RECEIVE_BYTES);
    connector.new_stream(&peer).await.map(Connection::Pingora)
}

/// The address of a peer that wants nothing but a TCP connection.
fn plain_address(peer: &HttpPeer) -> Option<SocketAddr> {
    let options = &peer.options;
    let is_plain = peer.scheme == Scheme::HTTP
        && peer.proxy.is_none()
        && options.bind_to.is_none()
        && options.custom_l4.is_none()
        && options.dscp.is_none()
        && !options.tcp_fast_open
        && options.tracer.is_none()
        && options.upstream_tcp_sock_tweak_hook.is_none();
    peer.address().as_inet().copied().filter(|_| is_plain)
}

async fn connect_plain(address: SocketAddr, peer: &HttpPeer) -> Result<Connection, Box<Error>> {
    let dial = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let receive_bytes = peer.options.tcp_recv_buf.unwrap_or(UPSTREAM_RECEIVE_BYTES);
        socket.set_recv_buffer_size(u32::try_from(receive_bytes).unwrap_or(u32::MAX))?;
        socket.set_nodelay(true)?;
        if let Some(TcpKeepalive { idle, interval, count, .. }) = peer.options.tcp_keepalive {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            driver::keep_alive(SockRef::from(&socket), KeepAlive { idle, interval, count })?;
        }
        socket.connect(address).await
    };
    dial.await.map(|socket: TcpStream| Connection::Tcp(socket)).map_err(connect_error)
}

/// What the system says of a connection that cannot be had, in Pingora's words.
pub(super) fn connect_error(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            ErrorType::ConnectNoRoute
        }
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting", error).into_up()
}

/// Waits within a limit, if there is one; what comes back in its place is the limit that was hit.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Result<T, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_with_wishes_goes_through_the_connector() {
        let peer = |tls| HttpPeer::new("127.0.0.1:80", tls, String::new());
        assert!(plain_address(&peer(false)).is_some());
        assert!(plain_address(&peer(true)).is_none());
        let mut marked = peer(false);
        marked.options.dscp = Some(8);
        assert!(plain_address(&marked).is_none());
    }
}
