//! Connects to one of an upstream's servers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use pingora::ErrorType;
use pingora::connectors::TransportConnector;
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{Peer, Scheme};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::connection::UpstreamConnection;
use super::pool::Pool;
use crate::driver::{self, descriptors};
use crate::failure::Failure;
use crate::stream::KeepAlive;

/// Receive buffer of an upstream's socket, in bytes (the kernel doubles it for its bookkeeping). Setting it disables
/// autotuning, which would buffer megabytes for a client that does not read.
pub(super) const UPSTREAM_RECEIVE_BYTES: usize = 64 * 1024;

/// The same for a page, whose connection is reused. Large enough for 10 MB/s over 50 ms.
const PAGE_RECEIVE_BYTES: usize = 256 * 1024;

/// An established connection to one of the servers.
pub(super) struct Connected {
    pub(super) connection: UpstreamConnection,
    /// The server at the other end.
    pub(super) peer: HttpPeer,
    /// Whether it has carried a request before: then the server may be closing it at this moment.
    pub(super) reused: bool,
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One event stream, after which it is closed.
    Stream,
    /// A request and its response, after which it is kept. `idle` says whether an idle connection may be used.
    Page { idle: bool },
}

/// Tries the servers in order, each once; those left in `peers` have not been tried. Nothing has been sent yet, so
/// trying the next is always safe.
pub(super) async fn connect(
    connector: &TransportConnector,
    pool: &Pool,
    peers: &mut std::slice::Iter<'_, HttpPeer>,
    purpose: Purpose,
    limit: Option<Duration>,
) -> Result<Connected, Failure> {
    let mut failure = Failure::NoServer;
    for peer in peers.by_ref() {
        if purpose == (Purpose::Page { idle: true })
            && let Some(connection) = pool.take(peer.reuse_hash()).await
        {
            return Ok(Connected { connection, peer: peer.clone(), reused: true });
        }
        match connect_new(connector, peer, purpose, limit).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A new connection to one server.
pub(super) async fn connect_new(
    connector: &TransportConnector,
    peer: &HttpPeer,
    purpose: Purpose,
    limit: Option<Duration>,
) -> Result<Connected, Failure> {
    let receive_bytes = if purpose == Purpose::Stream { UPSTREAM_RECEIVE_BYTES } else { PAGE_RECEIVE_BYTES };
    let connected = match plain_address(peer) {
        Some(address) => within(limit, connect_plain(address, peer, receive_bytes)).await,
        None => within(limit, connect_with_options(connector, peer, receive_bytes)).await,
    };
    match connected {
        Ok(Ok(connection)) => Ok(Connected { connection, peer: peer.clone(), reused: false }),
        Ok(Err(source)) => Err(Failure::Connect { peer: peer.address().to_string(), source }),
        Err(limit) => Err(Failure::ConnectTimeout { peer: peer.address().to_string(), limit }),
    }
}

async fn connect_with_options(
    connector: &TransportConnector,
    peer: &HttpPeer,
    receive_bytes: usize,
) -> Result<UpstreamConnection, Box<Error>> {
    if descriptors::are_scarce() {
        return Err(connect_error(descriptors::none_left()));
    }
    let mut peer = peer.clone();
    peer.options.tcp_recv_buf.get_or_insert(receive_bytes);
    connector.new_stream(&peer).await.map(UpstreamConnection::Pingora)
}

/// The address of a peer that needs only a TCP connection without options.
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

async fn connect_plain(
    address: SocketAddr,
    peer: &HttpPeer,
    receive_bytes: usize,
) -> Result<UpstreamConnection, Box<Error>> {
    let dial = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if descriptors::is_reserved(socket.as_raw_fd()) {
            return Err(descriptors::none_left());
        }
        let receive_bytes = peer.options.tcp_recv_buf.unwrap_or(receive_bytes);
        socket.set_recv_buffer_size(u32::try_from(receive_bytes).unwrap_or(u32::MAX))?;
        socket.set_nodelay(true)?;
        if let Some(TcpKeepalive { idle, interval, count, .. }) = peer.options.tcp_keepalive {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            driver::keep_alive(SockRef::from(&socket), KeepAlive { idle, interval, count })?;
        }
        socket.connect(address).await
    };
    dial.await.map(|socket: TcpStream| UpstreamConnection::Tcp(socket)).map_err(connect_error)
}

/// Converts the system's error of a failed connection attempt to Pingora's.
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

/// Runs a future within a limit, if there is one; the error is the limit that was hit.
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
    fn a_peer_with_options_uses_the_connector() {
        let peer = |tls| HttpPeer::new("127.0.0.1:80", tls, String::new());
        assert!(plain_address(&peer(false)).is_some());
        assert!(plain_address(&peer(true)).is_none());
        let mut marked = peer(false);
        marked.options.dscp = Some(8);
        assert!(plain_address(&marked).is_none());
    }
}
