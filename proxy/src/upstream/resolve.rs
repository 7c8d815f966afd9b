//! A cache of a server's addresses, for a few seconds: restarted containers come back with another address.
//!
//! A name with a known answer is never waited for, however old the answer is: the name is resolved again in the
//! background.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::Server;

/// How long an answer, or a failure, is used before the name is resolved again.
const FRESH: Duration = Duration::from_secs(5);

/// How long resolving a name may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// The addresses of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    state: Arc<Mutex<State>>,
    /// Held during a lookup, so that there is one at a time; callers without a known answer wait for it.
    lookup: Arc<tokio::sync::Mutex<()>>,
    /// The runtime of the first lookup. Lookups from a thread without a runtime run there.
    runtime: Arc<OnceLock<Handle>>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<SocketAddr>,
    looked_up: Option<Instant>,
    failure: Option<String>,
}

impl Resolved {
    /// The addresses without waiting: a literal address, or the last answer. Resolves the name again in the background
    /// if the answer is old. May be called on any thread; without a runtime, the lookup runs on the runtime of the
    /// first one.
    pub(super) fn known(&self, server: &Server) -> Vec<SocketAddr> {
        if let Some(ip) = server.ip() {
            return vec![SocketAddr::new(ip, server.port)];
        }
        if !self.is_fresh()
            && let Ok(guard) = self.lookup.clone().try_lock_owned()
        {
            let (this, server) = (self.clone(), server.clone());
            if let Some(runtime) = Handle::try_current().ok().or_else(|| self.runtime.get().cloned()) {
                runtime.spawn(async move {
                    this.look_up(&server).await;
                    drop(guard);
                });
            }
        }
        self.state().addresses.clone()
    }

    /// Whether this is a name that has never been resolved.
    pub(super) fn is_new(&self, server: &Server) -> bool {
        server.ip().is_none() && self.state().looked_up.is_none()
    }

    /// Waits for the addresses of a name. Concurrent callers share one lookup.
    ///
    /// # Errors
    /// The error of the name service, if it has failed within the last seconds.
    pub(super) async fn wait(&self, server: &Server) -> Result<Vec<SocketAddr>, String> {
        let guard = self.lookup.lock().await;
        if !self.is_fresh() {
            self.look_up(server).await;
        }
        drop(guard);
        let state = self.state();
        match &state.failure {
            Some(failure) if state.addresses.is_empty() => Err(failure.clone()),
            _ => Ok(state.addresses.clone()),
        }
    }

    async fn look_up(&self, server: &Server) {
        self.runtime.get_or_init(Handle::current);
        let lookup = tokio::net::lookup_host((server.host.as_str(), server.port));
        let found = match tokio::time::timeout(LOOKUP_LIMIT, lookup).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer")),
        };
        let mut state = self.state();
        state.looked_up = Some(Instant::now());
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                state.addresses = addresses;
                state.failure = None;
            }
            // The previous addresses stay in use.
            Ok(_) => state.failure = Some("the name has no address".to_owned()),
            Err(error) => state.failure = Some(error.to_string()),
        }
        if let Some(failure) = &state.failure {
            log::error!("name resolution failed: side=upstream server={}: {failure}", server.host);
        }
    }

    /// Sets the addresses as if they had just been resolved.
    #[cfg(test)]
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        let mut state = self.state();
        (state.addresses, state.looked_up) = (addresses, Some(Instant::now()));
    }

    fn is_fresh(&self) -> bool {
        self.state().looked_up.is_some_and(|looked_up| looked_up.elapsed() < FRESH)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_lookup_is_not_repeated_at_once() {
        let server: Server = "no-such-name.invalid:80".parse().expect("server");
        let resolved = Resolved::default();
        assert!(resolved.known(&server).is_empty());
        let first = resolved.wait(&server).await.expect_err("no such name");
        let looked_up = resolved.state().looked_up;
        assert_eq!(resolved.wait(&server).await, Err(first));
        assert_eq!(resolved.state().looked_up, looked_up, "answered from memory");
    }

    #[tokio::test]
    async fn a_known_answer_is_used_without_waiting() {
        let server: Server = "localhost:80".parse().expect("server");
        let resolved = Resolved::default();
        let addresses = resolved.wait(&server).await.expect("localhost resolves");
        resolved.state().looked_up = Instant::now().checked_sub(FRESH);
        let busy = resolved.lookup.clone().try_lock_owned().expect("no lookup is running");
        assert_eq!(resolved.known(&server), addresses, "though the answer is old and a lookup is running");
        drop(busy);
    }

    /// Invariant: a known answer is used without waiting and is refreshed, on any thread. Mechanism: a thread without a
    /// runtime could not start a lookup, and required a fresh answer. Symptom: with a name as its upstream, the reactor
    /// left all requests after the first seconds to the slower path.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_without_a_runtime_uses_an_old_answer_and_refreshes_it() {
        let server: Server = "localhost:80".parse().expect("server");
        let resolved = Resolved::default();
        let addresses = resolved.wait(&server).await.expect("localhost resolves");
        resolved.state().looked_up = Instant::now().checked_sub(FRESH);
        let (resolving, name) = (resolved.clone(), server.clone());
        let known = std::thread::spawn(move || resolving.known(&name)).join().expect("no panic");
        assert_eq!(known, addresses, "an old answer is used");
        // The lookup holds the lock until it is done.
        drop(resolved.lookup.lock().await);
        assert!(resolved.is_fresh(), "the answer is refreshed");
    }
}
