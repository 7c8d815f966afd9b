//! Connects to a server of an upstream, from a task or from a reactor's thread.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use pingora::connectors::TransportConnector;
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{Peer, Scheme};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpSocket;

use super::connection::UpstreamConnection;
use crate::driver::{self, descriptors};
use crate::exchange::connect_error;
use crate::stream::KeepAlive;

/// Receive buffer of an upstream's socket, in bytes (the kernel doubles it for its bookkeeping). Setting it disables
/// autotuning, which would buffer megabytes for a client that does not read.
const STREAM_RECEIVE_BYTES: usize = 64 * 1024;

/// The same for a page, whose connection is reused. Large enough for 10 MB/s over 50 ms.
const PAGE_RECEIVE_BYTES: usize = 256 * 1024;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One event stream, after which it is closed.
    Stream,
    /// A request and its response, after which it is kept.
    Page,
}

/// A new connection to a server.
///
/// # Errors
/// When none can be made.
pub(super) async fn connect(
    connector: &TransportConnector,
    peer: &HttpPeer,
    purpose: Purpose,
) -> Result<UpstreamConnection, Box<Error>> {
    let receive_bytes = if purpose == Purpose::Stream { STREAM_RECEIVE_BYTES } else { PAGE_RECEIVE_BYTES };
    match plain_address(peer) {
        Some(address) => connect_plain(address, peer, receive_bytes).await,
        None => connect_with_options(connector, peer, receive_bytes).await,
    }
}

/// Starts a connection for a stream, without blocking. It may not be connected yet.
///
/// # Errors
/// When it fails at once.
pub(super) fn start(server: SocketAddr, keep_alive: Option<KeepAlive>) -> io::Result<std::net::TcpStream> {
    let socket = plain_socket(server, STREAM_RECEIVE_BYTES, keep_alive)?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// A non-blocking socket for a server, with its options.
fn plain_socket(server: SocketAddr, receive_bytes: usize, keep_alive: Option<KeepAlive>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if descriptors::is_reserved(socket.as_raw_fd()) {
        return Err(descriptors::none_left());
    }
    socket.set_recv_buffer_size(receive_bytes)?;
    if let Some(keep_alive) = keep_alive {
        driver::keep_alive(SockRef::from(&socket), keep_alive)?;
    }
    Ok(socket)
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
    let keep_alive = peer.options.tcp_keepalive.as_ref().map(|TcpKeepalive { idle, interval, count, .. }| KeepAlive {
        idle: *idle,
        interval: *interval,
        count: u32::try_from(*count).unwrap_or(u32::MAX),
    });
    let dial = async {
        let socket = plain_socket(address, peer.options.tcp_recv_buf.unwrap_or(receive_bytes), keep_alive)?;
        socket.set_tcp_nodelay(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    };
    dial.await.map(UpstreamConnection::Tcp).map_err(connect_error)
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
