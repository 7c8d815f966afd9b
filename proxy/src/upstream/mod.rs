//! The servers of an upstream, their endpoints, and the order in which a request tries them.
//!
//! A request gets one list of endpoints and tries each of them at most once, on every request path.

mod balance;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::config::Server;
use crate::driver::Endpoint;
use balance::RoundRobin;
use resolve::Resolved;

/// A backend's servers.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    servers: Vec<Resolved>,
    balance: RoundRobin,
    /// Endpoints of servers that a reload has removed, for the metrics, while they serve streams.
    former: Mutex<Vec<Weak<Endpoint>>>,
}

impl Upstream {
    /// An upstream with these servers, whose names are resolved when they are first needed.
    pub fn new(name: &str, servers: Vec<Server>) -> Self {
        let servers = servers.into_iter().map(Resolved::new).collect();
        Self { name: name.into(), servers, balance: RoundRobin::default(), former: Mutex::default() }
    }

    /// The upstream of the same name with these servers, of which those that this one has keep what is known of them: addresses,
    /// endpoints and their counts. The same servers in the same order are the same upstream.
    #[must_use]
    pub fn reloaded(self: &Arc<Self>, servers: Vec<Server>) -> Arc<Self> {
        if self.servers.iter().map(Resolved::server).eq(&servers) {
            return self.clone();
        }
        let known = |server: &Server| self.servers.iter().find(|known| known.server() == server).cloned();
        let is_left = |known: &&Resolved| !servers.contains(known.server());
        let left =
            self.servers.iter().filter(is_left).flat_map(Resolved::in_use).map(|endpoint| Arc::downgrade(&endpoint));
        let former = self.former().iter().cloned().chain(left).collect();
        let servers =
            servers.into_iter().map(|server| known(&server).unwrap_or_else(|| Resolved::new(server))).collect();
        Arc::new(Self { name: self.name.clone(), servers, balance: RoundRobin::default(), former: Mutex::new(former) })
    }

    fn former(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Endpoint>>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every endpoint of every server, in the order to try them. Waits for names that have never been resolved and, if
    /// no address is known at all, for the others. Leaves out servers whose names do not resolve; failures are logged.
    pub async fn candidates(&self) -> Vec<Arc<Endpoint>> {
        for server in self.servers.iter().filter(|server| server.is_new()) {
            // What is known of the other servers is used.
            let _ = server.wait().await;
        }
        let candidates = self.order();
        if !candidates.is_empty() {
            return candidates;
        }
        for server in &self.servers {
            if server.wait().await.is_ok() {
                break;
            }
        }
        self.order()
    }

    /// The same list for callers that cannot wait and speak plain TCP only. `None` if a server needs TLS, a name has
    /// never been resolved, or no address is known.
    pub fn plain_candidates(&self) -> Option<Vec<Arc<Endpoint>>> {
        if self.servers.iter().any(|server| server.needs_tls() || server.is_new()) {
            return None;
        }
        Some(self.order()).filter(|candidates| !candidates.is_empty())
    }

    /// The number of streams at each address that is known, or that still serves some.
    pub fn active_streams(&self) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for endpoint in self.servers.iter().flat_map(Resolved::in_use) {
            // Two servers may have the same address.
            *counts.entry(endpoint.address).or_default() += endpoint.state.active_streams();
        }
        self.former().retain(|former| {
            let Some(endpoint) = former.upgrade().filter(|endpoint| endpoint.state.active_streams() > 0) else {
                return false;
            };
            *counts.entry(endpoint.address).or_default() += endpoint.state.active_streams();
            true
        });
        counts
    }

    /// The endpoints whose addresses are known now. Other balancing replaces this.
    fn order(&self) -> Vec<Arc<Endpoint>> {
        self.balance.order(&self.servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(endpoints: &[Arc<Endpoint>]) -> Vec<SocketAddr> {
        endpoints.iter().map(|endpoint| endpoint.address).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[tokio::test]
    async fn servers_are_tried_round_robin() {
        let servers = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|server| server.parse().expect("server"));
        let upstream = Upstream::new("app", servers.to_vec());
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let candidates = upstream.candidates().await;
            assert_eq!(candidates.len(), 3);
            firsts.push(candidates[0].address.to_string());
        }
        assert_eq!(firsts, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    /// Invariant: requests spread over all addresses of a name. Mechanism: only servers were rotated, and a name's
    /// addresses kept the order of the name service. Symptom: a name with several live addresses sent every request to
    /// the first.
    #[tokio::test]
    async fn addresses_of_a_name_are_tried_round_robin() {
        let [one, two, three] = ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"].map(address);
        let servers = ["app.invalid:80", "127.0.0.1:1"].map(|server| server.parse().expect("server"));
        let upstream = Upstream::new("app", servers.to_vec());
        upstream.servers[0].set(&[one, two, three]);
        let mut orders = Vec::new();
        for at in 0..6 {
            let order = match at % 2 {
                0 => upstream.plain_candidates().expect("all are known"),
                _ => upstream.candidates().await,
            };
            orders.push(addresses(&order));
        }
        let other = address("127.0.0.1:1");
        assert_eq!(orders[0], [one, two, three, other]);
        assert_eq!(orders[1], [other, one, two, three]);
        assert_eq!(orders[2], [two, three, one, other]);
        assert_eq!(orders[4], [three, one, two, other]);
    }

    /// Invariant: a reload keeps what is known of a server that stays. Mechanism: each reload made its upstreams anew.
    /// Symptom: every name was resolved again, and counts of streams began at 0 while streams ran.
    #[test]
    fn a_server_that_stays_keeps_its_endpoints() {
        let server = |text: &str| text.parse::<Server>().expect("server");
        let upstream = Arc::new(Upstream::new("app", vec![server("app.invalid:80"), server("127.0.0.1:1")]));
        upstream.servers[0].set(&[address("192.0.2.1:80")]);
        let before = upstream.order();
        assert!(Arc::ptr_eq(&upstream.reloaded(vec![server("app.invalid:80"), server("127.0.0.1:1")]), &upstream));
        let after = upstream.reloaded(vec![server("127.0.0.1:2"), server("app.invalid:80")]);
        let order = after.order();
        assert_eq!(addresses(&order), ["127.0.0.1:2", "192.0.2.1:80"].map(address));
        assert!(before.iter().any(|endpoint| Arc::ptr_eq(endpoint, &order[1])), "not resolved again");
        assert!(after.plain_candidates().is_some(), "its name is known");
    }

    /// The state of an endpoint survives what the name service answers meanwhile, for as long as anybody uses it.
    #[test]
    fn an_endpoint_is_the_same_after_its_name_is_resolved_again() {
        let upstream = Upstream::new("app", vec!["app.invalid:80".parse().expect("server")]);
        let [one, two] = ["192.0.2.1:80", "192.0.2.2:80"].map(address);
        let resolve = |to: &[SocketAddr]| {
            upstream.servers[0].set(to);
            upstream.order()
        };
        let known = || upstream.active_streams().into_keys().collect::<Vec<_>>();
        let first = resolve(&[one, two]);
        assert_eq!(known(), [one, two]);
        let stream = first.into_iter().find(|endpoint| endpoint.address == one).expect("an endpoint");
        // Its address is gone, and comes back while a stream is left.
        assert_eq!(addresses(&resolve(&[two])), [two]);
        assert_eq!(known(), [one, two], "a stream is left");
        let back = resolve(&[one, one]);
        assert_eq!(addresses(&back), [one], "an address that was answered twice is tried once");
        assert!(Arc::ptr_eq(&back[0], &stream));
        assert_eq!(known(), [one], "nobody uses the other");
        drop((stream, back));
        resolve(&[two]);
        assert_eq!(known(), [two]);
    }
}
