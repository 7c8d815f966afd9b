//! The servers of an upstream and the order to try them: round robin over the servers, and over the addresses of a
//! name.
//!
//! A request gets one list of candidates and tries each of them at most once, on every request path.

mod resolve;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora::prelude::HttpPeer;
use pingora::protocols::TcpKeepalive;

use crate::config::Server;
use crate::stream::KeepAlive;
use resolve::Resolved;

/// A backend's servers.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<(Server, Resolved)>,
    rotation: AtomicUsize,
    keep_alive: Option<KeepAlive>,
}

impl Upstream {
    /// An upstream with these servers, whose names are resolved when they are first needed.
    pub fn new(servers: Vec<Server>) -> Self {
        let servers = servers.into_iter().map(|server| (server, Resolved::default())).collect();
        Self { servers, rotation: AtomicUsize::new(0), keep_alive: None }
    }

    /// The same, with TCP keep-alive on connections to its servers.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Option<KeepAlive>) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Every address of every server, in the order to try them, rotated by one for each request. Waits for names that
    /// have never been resolved and, if no address is known at all, for the others. Leaves out servers whose names do
    /// not resolve; failures are logged.
    pub async fn peers(&self, connect: Option<Duration>) -> Vec<HttpPeer> {
        let rotation = self.next_rotation();
        let mut peers = Vec::with_capacity(self.servers.len());
        for (server, resolved) in self.in_order(rotation) {
            let addresses = match resolved.is_new(server) {
                true => resolved.wait(server).await.unwrap_or_default(),
                false => resolved.known(server),
            };
            let addresses = self.rotate(addresses, rotation);
            peers.extend(addresses.into_iter().map(|address| self.peer(server, address, connect)));
        }
        if !peers.is_empty() {
            return peers;
        }
        for (server, resolved) in self.in_order(rotation) {
            if let Ok(addresses) = resolved.wait(server).await {
                let addresses = self.rotate(addresses, rotation);
                return addresses.into_iter().map(|address| self.peer(server, address, connect)).collect();
            }
        }
        peers
    }

    /// The same list for callers that cannot wait. `None`, without a rotation, if a server needs more than plain TCP, a
    /// name has never been resolved, or no address is known.
    pub fn plain_addresses(&self) -> Option<Vec<SocketAddr>> {
        if self.servers.iter().any(|(server, resolved)| server.tls || resolved.is_new(server)) {
            return None;
        }
        let mut known: Vec<_> = self.servers.iter().map(|(server, resolved)| resolved.known(server)).collect();
        if known.iter().all(Vec::is_empty) {
            return None;
        }
        let rotation = self.next_rotation();
        let count = known.len();
        let in_order = (0..count).map(|at| std::mem::take(&mut known[(rotation + at) % count]));
        Some(in_order.flat_map(|addresses| self.rotate(addresses, rotation)).collect())
    }

    fn next_rotation(&self) -> usize {
        self.rotation.fetch_add(1, Ordering::Relaxed)
    }

    /// The servers, starting with the next one.
    fn in_order(&self, rotation: usize) -> impl Iterator<Item = &(Server, Resolved)> {
        (0..self.servers.len()).map(move |at| &self.servers[(rotation + at) % self.servers.len()])
    }

    /// A server's addresses, starting with the next one each time the server comes first.
    fn rotate(&self, mut addresses: Vec<SocketAddr>, rotation: usize) -> Vec<SocketAddr> {
        if addresses.len() > 1 {
            let first = (rotation / self.servers.len()) % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }

    fn peer(&self, server: &Server, address: SocketAddr, connect: Option<Duration>) -> HttpPeer {
        let mut peer = HttpPeer::new(address, server.tls, server.host.clone());
        peer.options.connection_timeout = connect;
        peer.options.total_connection_timeout = connect;
        peer.options.tcp_keepalive = self.keep_alive.map(|KeepAlive { idle, interval, count }| TcpKeepalive {
            idle,
            interval,
            count: count as usize,
            user_timeout: Duration::ZERO,
        });
        peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::upstreams::peer::Peer;

    #[tokio::test]
    async fn servers_are_tried_round_robin() {
        let servers = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|server| server.parse().expect("server"));
        let upstream = Upstream::new(servers.to_vec());
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let peers = upstream.peers(None).await;
            assert_eq!(peers.len(), 3);
            firsts.push(peers[0].address().to_string());
        }
        assert_eq!(firsts, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    /// Invariant: requests spread over all addresses of a name. Mechanism: only servers were rotated, and a name's
    /// addresses kept the order of the name service. Symptom: a name with several live addresses sent every request to
    /// the first.
    #[tokio::test]
    async fn addresses_of_a_name_are_tried_round_robin() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("address");
        let [one, two, three] = ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"].map(address);
        let upstream =
            Upstream::new(vec!["app.invalid:80".parse().expect("server"), "127.0.0.1:1".parse().expect("server")]);
        upstream.servers[0].1.set(vec![one, two, three]);
        let mut orders = Vec::new();
        for at in 0..6 {
            let order: Vec<SocketAddr> = match at % 2 {
                0 => upstream.plain_addresses().expect("all are known"),
                _ => {
                    let peers = upstream.peers(None).await;
                    peers.iter().filter_map(|peer| peer.address().as_inet().copied()).collect()
                }
            };
            orders.push(order);
        }
        let other = address("127.0.0.1:1");
        assert_eq!(orders[0], [one, two, three, other]);
        assert_eq!(orders[1], [other, one, two, three]);
        assert_eq!(orders[2], [two, three, one, other]);
        assert_eq!(orders[4], [three, one, two, other]);
    }
}
