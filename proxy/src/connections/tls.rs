//! TLS handshakes, with the certificate of the listener, within the limit on a request head.
//!
//! Pingora's listeners would do them within a fixed minute.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;

use crate::driver::canonical;

/// The listeners of a service: those that speak TLS, and the others, of which one may have an address that a listener for
/// TLS on all addresses includes.
#[derive(Default)]
pub struct TlsListeners(Vec<(SocketAddr, Option<Arc<Acceptor>>)>);

impl TlsListeners {
    /// Connections to `address` begin with a handshake if there is an acceptor.
    pub fn add(&mut self, address: SocketAddr, acceptor: Option<Acceptor>) {
        self.0.push((address, acceptor.map(Arc::new)));
    }

    /// Completes the handshake of a connection that a listener for TLS accepted, and returns all others as they are. Has no
    /// limit.
    pub(super) async fn handshake(&self, stream: Stream) -> io::Result<Stream> {
        let digest = stream.get_socket_digest();
        let local = digest.and_then(|digest| digest.local_addr()?.as_inet().copied());
        let addresses = || self.0.iter().map(|(address, _)| *address);
        let listener = local.and_then(|local| listener_of(local, addresses)).and_then(|at| self.0.get(at));
        let Some(acceptor) = listener.and_then(|(_, acceptor)| acceptor.clone()) else { return Ok(stream) };
        let unexpected = |_| io::Error::other("the accepted connection has an unexpected type");
        let stream = stream.into_any().downcast::<L4Stream>().map_err(unexpected)?;
        let secure = acceptor.tls_handshake(*stream).await.map_err(io::Error::other)?;
        Ok(Box::new(secure))
    }
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
