//! What connections begin with: a header of the PROXY protocol and a TLS handshake, as the listener has them, within the limit
//! on a request head.
//!
//! Pingora's listeners would do them within a fixed minute.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{SocketDigest, Stream};

use crate::driver::canonical;
use crate::headers::TrustedProxies;
use crate::takeover::read_proxy_header;
use crate::wire::proxy_protocol::ProxyProtocol;

/// The listeners of a service: those that speak TLS, and the others, of which one may have an address that a listener for
/// TLS on all addresses includes.
#[derive(Default)]
pub struct TlsListeners(Vec<Listener>);

/// What connections to an address begin with.
struct Listener {
    address: SocketAddr,
    proxy_protocol: ProxyProtocol,
    acceptor: Option<Arc<Acceptor>>,
}

impl TlsListeners {
    /// Connections to `address` begin with a header if `proxy_protocol` says so, and then with a handshake if there is an
    /// acceptor.
    pub fn add(&mut self, address: SocketAddr, proxy_protocol: ProxyProtocol, acceptor: Option<Acceptor>) {
        self.0.push(Listener { address, proxy_protocol, acceptor: acceptor.map(Arc::new) });
    }

    fn listener(&self, stream: &Stream) -> Option<&Listener> {
        let digest = stream.get_socket_digest();
        let local = digest.and_then(|digest| digest.local_addr()?.as_inet().copied());
        let addresses = || self.0.iter().map(|listener| listener.address);
        local.and_then(|local| listener_of(local, addresses)).and_then(|at| self.0.get(at))
    }

    /// Reads the header of the PROXY protocol of a connection whose listener expects one. The address in it replaces the
    /// peer's. Has no limit.
    ///
    /// # Errors
    /// As [`read_proxy_header`].
    pub(super) async fn proxied(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
        trusted: &TrustedProxies,
    ) -> io::Result<Stream> {
        let mode = self.listener(&stream).map_or(ProxyProtocol::Off, |listener| listener.proxy_protocol);
        if mode == ProxyProtocol::Off {
            return Ok(stream);
        }
        let is_trusted = peer.is_some_and(|peer| trusted.contains(peer.ip()));
        let mut stream = stream.into_any().downcast::<L4Stream>().map_err(unexpected)?;
        let (source, rest) = read_proxy_header(&mut stream, mode, is_trusted).await?;
        stream.rewind(&rest);
        let mut stream: Stream = stream;
        if let Some(source) = source {
            set_peer_address(&mut stream, source);
        }
        Ok(stream)
    }

    /// Completes the handshake of a connection that a listener for TLS accepted, and returns all others as they are. Has no
    /// limit.
    pub(super) async fn handshake(&self, stream: Stream) -> io::Result<Stream> {
        let Some(acceptor) = self.listener(&stream).and_then(|listener| listener.acceptor.clone()) else {
            return Ok(stream);
        };
        let stream = stream.into_any().downcast::<L4Stream>().map_err(unexpected)?;
        let secure = acceptor.tls_handshake(*stream).await.map_err(io::Error::other)?;
        Ok(Box::new(secure))
    }
}

fn unexpected(_: Box<dyn Any>) -> io::Error {
    io::Error::other("the accepted connection has an unexpected type")
}

/// Replaces the address that Pingora has for the client.
pub(super) fn set_peer_address(stream: &mut Stream, address: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // The digest is not shared yet, so the value cannot be set already.
    let _ = digest.peer_addr.set(Some(address.into()));
    stream.set_socket_digest(digest);
}

/// The index of the listener that accepted a connection to the local address `local`: as in the kernel, one of this address
/// precedes one of all addresses.
fn listener_of<A: Iterator<Item = SocketAddr>>(local: SocketAddr, listeners: impl Fn() -> A) -> Option<usize> {
    let local = canonical(local);
    let is_all = |address: &SocketAddr| address.port() == local.port() && address.ip().is_unspecified();
    listeners()
        .position(|address| canonical(address) == local)
        .or_else(|| listeners().position(|address| is_all(&address) && address.is_ipv4() == local.is_ipv4()))
        .or_else(|| listeners().position(|address| is_all(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_belongs_to_the_listener_of_its_address() {
        for (local, listeners, wanted) in [
            ("127.0.0.1:443", &["0.0.0.0:443", "127.0.0.1:443"][..], Some(1)),
            ("127.0.0.2:443", &["127.0.0.1:443", "0.0.0.0:443"], Some(1)),
            ("127.0.0.1:443", &["[::]:443", "0.0.0.0:443"], Some(1)),
            ("[::1]:443", &["0.0.0.0:443", "[::]:443"], Some(1)),
            // A listener of IPv6 accepts IPv4 as well.
            ("[::ffff:192.0.2.1]:443", &["[::]:443"], Some(0)),
            ("[::ffff:192.0.2.1]:443", &["[::]:443", "192.0.2.1:443"], Some(1)),
            ("127.0.0.1:80", &["0.0.0.0:443", "127.0.0.1:443"], None),
        ] {
            let addresses = || listeners.iter().map(|address| address.parse().expect("an address"));
            assert_eq!(listener_of(local.parse().expect("an address"), addresses), wanted, "{local} {listeners:?}");
        }
    }
}
