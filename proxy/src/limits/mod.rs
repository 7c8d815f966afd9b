//! Limits on streams: which there are, and what is counted for them. Pure: the caller passes the time.
//!
//! How many streams run is counted in [`crate::driver`]. Here is what those counts do not have: rates, and the streams
//! and rates of single clients, in bounded memory.

mod clients;
mod limit;
mod rate;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub use clients::{ClientLimits, ClientPermit, ClientTable};
pub use limit::Limit;
pub use rate::{Rate, RateCounter};

/// What is counted for the limits of one route, across changes of the configuration.
#[derive(Debug, Default)]
pub struct RouteState {
    opening: AtomicU64,
    refused: [AtomicU64; Limit::ALL.len()],
    rate: RateCounter,
    clients: OnceLock<Arc<ClientTable>>,
}

impl RouteState {
    /// The number of requests that may still become streams.
    pub fn opening(&self) -> &AtomicU64 {
        &self.opening
    }

    /// The rate at which streams open.
    pub fn rate(&self) -> &RateCounter {
        &self.rate
    }

    /// The clients, once the first one has been counted.
    pub fn clients(&self) -> Option<&Arc<ClientTable>> {
        self.clients.get()
    }

    /// The clients.
    pub fn clients_or_new(&self) -> &Arc<ClientTable> {
        self.clients.get_or_init(Arc::default)
    }

    /// Counts a request that was refused because of this limit.
    pub fn refuse(&self, limit: Limit) {
        self.refused[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were refused because of this limit.
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_own_counter() {
        let state = RouteState::default();
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            (0..=at).for_each(|_| state.refuse(limit));
        }
        let counted = Limit::ALL.map(|limit| state.refused(limit));
        assert_eq!(counted, [1, 2, 3, 4, 5, 6]);
    }
}
