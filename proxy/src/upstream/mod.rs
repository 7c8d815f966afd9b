//! Which server of an upstream a request goes to: each in turn, names resolved anew every few seconds.

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
    turn: AtomicUsize,
    keep_alive: Option<KeepAlive>,
}

impl Upstream {
    /// An upstream of the given servers, which are looked up when they are first needed.
    pub fn new(servers: Vec<Server>) -> Self {
        let servers = servers.into_iter().map(|server| (server, Resolved::default())).collect();
        Self { servers, turn: AtomicUsize::new(0), keep_alive: None }
    }

    /// The same, with probes of silent connections to its servers.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Option<KeepAlive>) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// How many servers it has.
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// The addresses of its servers, in the order to try them: the server whose turn it is first. Servers whose names
    /// have not been resolved yet are left out as long as there are others; failures are logged.
    pub async fn peers(&self, connect: Option<Duration>) -> Vec<HttpPeer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..self.servers.len()).map(|at| &self.servers[(turn + at) % self.servers.len()]);
        let mut peers = Vec::with_capacity(self.servers.len());
        for (server, resolved) in in_turn() {
            peers.extend(resolved.known(server).into_iter().map(|address| self.peer(server, address, connect)));
        }
        if !peers.is_empty() {
            return peers;
        }
        for (server, resolved) in in_turn() {
            if let Ok(addresses) = resolved.wait(server).await {
                return addresses.into_iter().map(|address| self.peer(server, address, connect)).collect();
            }
        }
        peers
    }

    /// The same for those who cannot wait: `None`, and nobody's turn is over, where a server wants more than plain TCP, or
    /// where a name has to be asked for.
    pub fn plain_addresses(&self) -> Option<Vec<SocketAddr>> {
        let known: Option<Vec<_>> = self.servers.iter().map(|(server, resolved)| resolved.plain(server)).collect();
        let known = known?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..known.len()).map(|at| &known[(turn + at) % known.len()]);
        Some(in_turn.flatten().copied().collect())
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
    async fn servers_take_turns_and_the_others_follow() {
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
}
