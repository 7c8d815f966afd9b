//! The clients of a route: how many streams each has, and the rate at which it opens them, in a table of bounded size.
//!
//! A client is a hash, with a key that only this process knows: nobody can choose identities that collide. An entry
//! goes once its client has no stream and its rate is paid back.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limit::Limit;
use super::rate::{Rate, is_paid_back};
use crate::stream::Millis;

/// Parts of the table with a lock each.
const SHARDS: usize = 16;

/// The most clients in the table of one route, 13 MiB. Those beyond it have no limits of their own: refusing them would
/// let a few thousand clients lock everybody else out.
const MOST_CLIENTS: usize = 1 << 18;

/// Clients in a shard before it is searched for entries that can go.
const FIRST_SWEEP: usize = 64;

/// How often a shard that is full is searched, at most.
const FULL_SWEEP: Duration = Duration::from_secs(1);

/// The limits of each client; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Its streams at once, opening ones included.
    pub streams: Option<u32>,
    /// The rate at which it opens them.
    pub rate: Option<Rate>,
}

/// The clients of one route.
#[derive(Debug)]
pub struct ClientTable {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    most_in_shard: usize,
    untracked: AtomicU64,
}

/// One stream of a client, until it is dropped.
#[derive(Debug)]
pub struct ClientPermit {
    table: Arc<ClientTable>,
    client: u64,
}

#[derive(Debug)]
struct Shard {
    clients: HashMap<u64, Client>,
    /// The number of clients at which it is searched next, and when at the earliest if it is full.
    sweep_at: usize,
    sweep_after: Millis,
}

#[derive(Debug, Default)]
struct Client {
    paid_back_at: u64,
    streams: u32,
}

impl Default for ClientTable {
    fn default() -> Self {
        Self::of(MOST_CLIENTS)
    }
}

impl ClientLimits {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        self.streams.is_none() && self.rate.is_none()
    }
}

impl ClientTable {
    /// A table of about this many clients at most.
    fn of(most: usize) -> Self {
        let shard = || Shard { clients: HashMap::new(), sweep_at: FIRST_SWEEP, sweep_after: Millis(0) };
        let shards = std::array::from_fn(|_| Mutex::new(shard()));
        Self { hasher: RandomState::new(), shards, most_in_shard: most / SHARDS, untracked: AtomicU64::new(0) }
    }

    /// Counts a stream of `client`. Returns nothing to hold if its streams are not limited, or if the table is full of
    /// clients with streams.
    ///
    /// # Errors
    /// The limit that the stream would exceed. Nothing is counted then.
    pub fn admit(
        self: &Arc<Self>,
        client: impl Hash,
        limits: ClientLimits,
        now: Millis,
    ) -> Result<Option<ClientPermit>, Limit> {
        let client = self.hasher.hash_one(client);
        let mut shard = self.shard(client);
        if !shard.clients.contains_key(&client) && !shard.make_room(self.most_in_shard, now) {
            self.untracked.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let entry = shard.clients.entry(client).or_default();
        if limits.streams.is_some_and(|most| entry.streams >= most) {
            return Err(Limit::StreamsPerClient);
        }
        if let Some(rate) = limits.rate {
            entry.paid_back_at = rate.admit(entry.paid_back_at, now).ok_or(Limit::OpeningRatePerClient)?;
        }
        if limits.streams.is_none() {
            return Ok(None);
        }
        entry.streams += 1;
        Ok(Some(ClientPermit { table: self.clone(), client }))
    }

    /// How many clients have a stream or a rate to pay back.
    pub fn tracked(&self, now: Millis) -> usize {
        let count = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            shard.sweep(now);
            shard.clients.len()
        };
        self.shards.iter().map(count).sum()
    }

    /// How many streams of clients that did not fit into the table were admitted.
    pub fn untracked(&self) -> u64 {
        self.untracked.load(Ordering::Relaxed)
    }

    fn shard(&self, client: u64) -> MutexGuard<'_, Shard> {
        // The low bits choose the place within the shard's own table only after it has hashed them again.
        lock(&self.shards[(client % SHARDS as u64) as usize])
    }
}

impl Shard {
    /// Whether there is room for one more client. Searching costs one step for each client on average, also while the
    /// table is full and strangers keep asking.
    fn make_room(&mut self, most: usize, now: Millis) -> bool {
        let is_full = self.clients.len() >= most;
        if self.clients.len() >= self.sweep_at.min(most) && (!is_full || now >= self.sweep_after) {
            self.sweep(now);
        }
        self.clients.len() < most
    }

    /// Removes the clients that need no entry. The next time is when there are twice as many.
    fn sweep(&mut self, now: Millis) {
        self.clients.retain(|_, client| client.streams > 0 || !is_paid_back(client.paid_back_at, now));
        let left = self.clients.len();
        if self.clients.capacity() > 4 * left.max(FIRST_SWEEP) {
            self.clients.shrink_to(2 * left);
        }
        (self.sweep_at, self.sweep_after) = (FIRST_SWEEP.max(2 * left), now.after(FULL_SWEEP));
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.client);
        let Some(client) = shard.clients.get_mut(&self.client) else { return };
        client.streams = client.streams.saturating_sub(1);
        if client.streams == 0 && client.paid_back_at == 0 {
            shard.clients.remove(&self.client);
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(most: u32) -> ClientLimits {
        ClientLimits { streams: Some(most), rate: None }
    }

    fn rate(events: u32) -> ClientLimits {
        ClientLimits { streams: None, rate: Some(Rate::new(events, Duration::from_secs(1))) }
    }

    #[test]
    fn each_client_has_so_many_streams_at_once() {
        let table = Arc::<ClientTable>::default();
        let admit = |client: &str| table.admit(client, streams(2), Millis(0));
        let held: Vec<_> = (0..2).map(|_| admit("a").expect("room").expect("a permit")).collect();
        assert_eq!(admit("a").expect_err("full"), Limit::StreamsPerClient);
        let other = admit("b").expect("another client");
        assert_eq!(table.tracked(Millis(0)), 2);
        drop(held);
        assert_eq!(table.tracked(Millis(0)), 1);
        assert!(admit("a").expect("room again").is_some());
        drop(other);
        assert_eq!((table.tracked(Millis(0)), table.untracked()), (0, 0));
    }

    #[test]
    fn each_client_has_a_rate_of_its_own() {
        let table = Arc::<ClientTable>::default();
        let admitted =
            |client: &str, now| (0..10).filter(|_| table.admit(client, rate(4), Millis(now)).is_ok()).count();
        assert_eq!([admitted("a", 0), admitted("b", 0), admitted("a", 250), admitted("a", 5000)], [4, 4, 1, 4]);
        assert_eq!(table.admit("a", rate(4), Millis(5000)).expect_err("exceeded"), Limit::OpeningRatePerClient);
        assert_eq!([table.tracked(Millis(5999)), table.tracked(Millis(6000))], [1, 0], "entries go once paid back");
    }

    /// Invariant: a refused stream takes nothing. Mechanism: what comes first is counted before what comes second refuses.
    #[test]
    fn a_refused_stream_takes_no_part_of_the_rate() {
        let table = Arc::<ClientTable>::default();
        let both = ClientLimits { streams: Some(1), ..rate(2) };
        let first = table.admit("a", both, Millis(0)).expect("room");
        for _ in 0..10 {
            assert_eq!(table.admit("a", both, Millis(0)).expect_err("full"), Limit::StreamsPerClient);
        }
        drop(first);
        drop(table.admit("a", both, Millis(0)).expect("the second of two"));
        assert_eq!(table.admit("a", both, Millis(0)).expect_err("exceeded"), Limit::OpeningRatePerClient);
    }

    /// Invariant: the table is bounded, makes room where clients have gone, and gives memory back. Clients beyond it are
    /// served, and cost no search each.
    #[test]
    fn the_table_never_grows_beyond_its_bound() {
        const MOST: usize = 4096;
        let table = Arc::new(ClientTable::of(MOST));
        let in_shard = || lock(&table.shards[0]).clients.len();
        for client in 0..20 * MOST {
            table.admit(client, rate(1), Millis(10 * client as u64)).expect("another client each");
            assert!(in_shard() <= FIRST_SWEEP, "entries go once they are paid back");
        }
        assert_eq!(table.untracked(), 0);
        let now = Millis(10_000_000);
        for client in 0..20 * MOST {
            table.admit(client, rate(1), now).expect("another client each");
            assert!(in_shard() <= MOST / SHARDS);
        }
        assert_eq!(table.untracked(), 19 * MOST as u64);
        let later = now.after(FULL_SWEEP);
        table.admit("another", rate(1), later).expect("room");
        assert_eq!((table.untracked(), table.tracked(later)), (19 * MOST as u64, 1));
        let capacity: usize = table.shards.iter().map(|shard| lock(shard).clients.capacity()).sum();
        assert!(capacity < MOST, "{capacity}");
    }

    #[test]
    fn many_threads_never_exceed_a_limit() {
        let table = Arc::<ClientTable>::default();
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    for round in 0..2000 {
                        if let Ok(permit) = table.admit("a", streams(5), Millis(0)) {
                            held.push(permit);
                        }
                        let running = |shard: &Mutex<Shard>| -> u64 {
                            lock(shard).clients.values().map(|client| u64::from(client.streams)).sum()
                        };
                        most.fetch_max(table.shards.iter().map(running).sum::<u64>(), Ordering::Relaxed);
                        if round % 3 == 0 {
                            held.pop();
                        }
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::Relaxed), 5);
        assert_eq!(table.tracked(Millis(0)), 0, "all have been given back");
    }
}
