//! Connects to a server of an upstream, from a task or from a reactor's thread.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use pingora::connectors::TransportConnector;
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::{Peer, Scheme};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpSocket;

use super::connection::UpstreamConnection;
use crate::driver::{self, descriptors};
use crate::exchange::connect_error;
use crate::stream::{KeepAlive, Policy};

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

/// A new connection to a server. The caller limits the time. The policy's keep-alive is for a peer that has none of its own.
///
/// # Errors
/// When none can be made.
pub(super) async fn connect(
    connector: &TransportConnector,
    peer: &HttpPeer,
    purpose: Purpose,
    policy: &Policy,
) -> Result<UpstreamConnection, Box<Error>> {
    let receive_bytes = if purpose == Purpose::Stream { STREAM_RECEIVE_BYTES } else { PAGE_RECEIVE_BYTES };
    match plain_address(peer) {
        Some(address) => connect_plain(address, peer, receive_bytes, policy.keep_alive).await,
        None => connect_with_options(connector, peer, receive_bytes, policy.keep_alive).await,
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
    keep_alive: Option<KeepAlive>,
) -> Result<UpstreamConnection, Box<Error>> {
    if descriptors::are_scarce() {
        return Err(connect_error(descriptors::none_left()));
    }
    let peer = with_defaults(peer, receive_bytes, keep_alive);
    connector.new_stream(&peer).await.map(UpstreamConnection::Pingora)
}

/// The peer as it is connected to: over HTTP/1.1, without time limits of its own.
fn with_defaults(peer: &HttpPeer, receive_bytes: usize, keep_alive: Option<KeepAlive>) -> HttpPeer {
    let mut peer = peer.clone();
    let options = &mut peer.options;
    options.alpn = ALPN::H1;
    (options.connection_timeout, options.total_connection_timeout) = (None, None);
    options.tcp_recv_buf.get_or_insert(receive_bytes);
    options.tcp_keepalive = options.tcp_keepalive.take().or_else(|| keep_alive.map(pingora_keep_alive));
    peer
}

/// TCP keep-alive as Pingora's connectors take it.
pub(super) fn pingora_keep_alive(KeepAlive { idle, interval, count }: KeepAlive) -> TcpKeepalive {
    TcpKeepalive { idle, interval, count: count as usize, user_timeout: Duration::ZERO }
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
    keep_alive: Option<KeepAlive>,
) -> Result<UpstreamConnection, Box<Error>> {
    let own = peer.options.tcp_keepalive.as_ref().map(|TcpKeepalive { idle, interval, count, .. }| KeepAlive {
        idle: *idle,
        interval: *interval,
        count: u32::try_from(*count).unwrap_or(u32::MAX),
    });
    let keep_alive = own.or(keep_alive);
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

    /// Invariant: a peer's options do not change how the crate speaks to it. Mechanism: they went to the connector as they were.
    /// Symptom: an upstream that prefers HTTP/2 by ALPN gets HTTP/1.1 and refuses it; a stream fails by a limit that no policy sets.
    #[test]
    fn the_connector_gets_http_1_and_the_policys_keep_alive_and_no_limits() {
        let mut peer = HttpPeer::new("127.0.0.1:80", true, "test".to_owned());
        peer.options.alpn = ALPN::H2H1;
        peer.options.connection_timeout = Some(Duration::from_millis(1));
        peer.options.total_connection_timeout = Some(Duration::from_millis(1));
        let of_policy = KeepAlive { idle: Duration::from_secs(7), interval: Duration::from_secs(1), count: 3 };
        let options = with_defaults(&peer, 1024, Some(of_policy)).options;
        assert!(matches!(options.alpn, ALPN::H1));
        assert_eq!((options.connection_timeout, options.total_connection_timeout), (None, None));
        assert_eq!(options.tcp_keepalive.map(|keep_alive| keep_alive.idle), Some(of_policy.idle));
        let own = KeepAlive { idle: Duration::from_secs(9), ..of_policy };
        peer.options.tcp_keepalive = Some(pingora_keep_alive(own));
        let options = with_defaults(&peer, 1024, Some(of_policy)).options;
        assert_eq!(
            options.tcp_keepalive.map(|keep_alive| keep_alive.idle),
            Some(own.idle),
            "the peer's own goes first"
        );
    }

    #[tokio::test]
    async fn a_plain_connection_has_the_policys_keep_alive() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = HttpPeer::new(listener.local_addr().expect("an address"), false, String::new());
        let (idle, interval) = (Duration::from_secs(7), Duration::from_secs(1));
        let policy = Policy { keep_alive: Some(KeepAlive { idle, interval, count: 3 }), ..Policy::default() };
        let connector = TransportConnector::new(None);
        let connected = connect(&connector, &peer, Purpose::Stream, &policy).await.expect("a connection");
        let UpstreamConnection::Tcp(socket) = connected else { panic!("a plain connection") };
        assert_eq!(SockRef::from(&socket).tcp_keepalive_time().expect("an option"), idle);
    }
}
