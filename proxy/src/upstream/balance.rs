//! The order in which a request tries the endpoints of an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::resolve::Resolved;
use crate::driver::Endpoint;

/// Round robin over the servers, and over the addresses of a name.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    turn: AtomicUsize,
}

impl RoundRobin {
    /// Every known endpoint of `servers`, the one to try first in front. Each call starts with the next server, and
    /// with that server's next address.
    pub(super) fn order(&self, servers: &[Resolved]) -> Vec<Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order = Vec::with_capacity(servers.len());
        for at in 0..servers.len() {
            let known = servers[turn.wrapping_add(at) % servers.len()].known();
            let first = (turn / servers.len()) % known.len().max(1);
            order.extend(known[first..].iter().chain(&known[..first]).cloned());
        }
        order
    }
}
