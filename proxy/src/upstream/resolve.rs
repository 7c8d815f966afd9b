//! A cache of a server's endpoints, for a few seconds: restarted containers come back with another address.
//!
//! A name with a known answer is never waited for, however old the answer is: the name is resolved again in the
//! background.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::Server;
use crate::driver::Endpoint;

/// How long an answer, or a failure, is used before the name is resolved again.
const FRESH: Duration = Duration::from_secs(5);

/// How long resolving a name may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// The endpoints of a server, one for each of its addresses.
pub(super) type Endpoints = Arc<[Arc<Endpoint>]>;

/// One server, and the addresses of its name.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    server: Arc<Server>,
    /// Whether the server is configured with an address, which is never resolved.
    is_literal: bool,
    state: Arc<Mutex<State>>,
    /// Held during a lookup, so that there is one at a time; callers without a known answer wait for it.
    lookup: Arc<tokio::sync::Mutex<()>>,
    /// The runtime of the first lookup. Lookups from a thread without a runtime run there.
    runtime: Arc<OnceLock<Handle>>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: Endpoints,
    /// Endpoints of earlier answers. Their streams may still run, and their addresses may come back.
    former: Vec<Weak<Endpoint>>,
    looked_up: Option<Instant>,
    failure: Option<String>,
}

impl Resolved {
    pub(super) fn new(server: Server) -> Self {
        let mut state = State::default();
        let literal = server.ip().map(|ip| SocketAddr::new(ip, server.port));
        if let Some(address) = literal {
            state.update(&server, &[address]);
        }
        Self {
            server: Arc::new(server),
            is_literal: literal.is_some(),
            state: Arc::new(Mutex::new(state)),
            lookup: Arc::default(),
            runtime: Arc::default(),
        }
    }

    /// The server as configured.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Whether connections to the server use TLS.
    pub(super) fn needs_tls(&self) -> bool {
        self.server.tls
    }

    /// The endpoints without waiting: of a literal address, or of the last answer. Resolves the name again in the
    /// background if the answer is old. May be called on any thread; without a runtime, the lookup runs on the runtime
    /// of the first one.
    pub(super) fn known(&self) -> Endpoints {
        if !self.is_fresh()
            && let Ok(guard) = self.lookup.clone().try_lock_owned()
        {
            let this = self.clone();
            if let Some(runtime) = Handle::try_current().ok().or_else(|| self.runtime.get().cloned()) {
                runtime.spawn(async move {
                    this.look_up().await;
                    drop(guard);
                });
            }
        }
        self.state().endpoints.clone()
    }

    /// Whether this is a name that has never been resolved.
    pub(super) fn is_new(&self) -> bool {
        !self.is_literal && self.state().looked_up.is_none()
    }

    /// Waits for the endpoints of a name. Concurrent callers share one lookup.
    ///
    /// # Errors
    /// The error of the name service, if it has failed within the last seconds.
    pub(super) async fn wait(&self) -> Result<Endpoints, String> {
        let guard = self.lookup.lock().await;
        if !self.is_fresh() {
            self.look_up().await;
        }
        drop(guard);
        let state = self.state();
        match &state.failure {
            Some(failure) if state.endpoints.is_empty() => Err(failure.clone()),
            _ => Ok(state.endpoints.clone()),
        }
    }

    /// The known endpoints, and those of earlier answers that are still used.
    pub(super) fn in_use(&self) -> Vec<Arc<Endpoint>> {
        let state = self.state();
        state.endpoints.iter().cloned().chain(state.former.iter().filter_map(Weak::upgrade)).collect()
    }

    async fn look_up(&self) {
        self.runtime.get_or_init(Handle::current);
        let lookup = tokio::net::lookup_host((self.server.host.as_str(), self.server.port));
        let found = match tokio::time::timeout(LOOKUP_LIMIT, lookup).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer")),
        };
        let mut state = self.state();
        state.looked_up = Some(Instant::now());
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                state.update(&self.server, &addresses);
                state.failure = None;
            }
            // The previous addresses stay in use.
            Ok(_) => state.failure = Some("the name has no address".to_owned()),
            Err(error) => state.failure = Some(error.to_string()),
        }
        if let Some(failure) = &state.failure {
            log::error!("name resolution failed: side=upstream server={}: {failure}", self.server.host);
        }
    }

    /// Sets the addresses as if they had just been resolved.
    #[cfg(test)]
    pub(super) fn set(&self, addresses: &[SocketAddr]) {
        let mut state = self.state();
        state.update(&self.server, addresses);
        state.looked_up = Some(Instant::now());
    }

    fn is_fresh(&self) -> bool {
        self.is_literal || self.state().looked_up.is_some_and(|looked_up| looked_up.elapsed() < FRESH)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Replaces the endpoints by those of an answer. An endpoint that anybody still uses is kept as it is.
    fn update(&mut self, server: &Server, addresses: &[SocketAddr]) {
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(addresses.len());
        for address in addresses {
            let is_same = |endpoint: &Arc<Endpoint>| endpoint.address == *address;
            if endpoints.iter().any(is_same) {
                continue;
            }
            let former = || self.former.iter().filter_map(Weak::upgrade).find(is_same);
            let known = self.endpoints.iter().find(|endpoint| is_same(endpoint)).cloned().or_else(former);
            endpoints.push(known.unwrap_or_else(|| Arc::new(Endpoint::new(*address, &server.host, server.tls))));
        }
        self.former.extend(self.endpoints.iter().map(Arc::downgrade));
        self.endpoints = endpoints.into();
        let current = &self.endpoints;
        self.former.retain(|former| {
            former.upgrade().is_some_and(|former| !current.iter().any(|endpoint| Arc::ptr_eq(endpoint, &former)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(endpoints: &Endpoints) -> Vec<SocketAddr> {
        endpoints.iter().map(|endpoint| endpoint.address).collect()
    }

    #[tokio::test]
    async fn a_failed_lookup_is_not_repeated_at_once() {
        let resolved = Resolved::new("no-such-name.invalid:80".parse().expect("server"));
        assert!(resolved.known().is_empty());
        let first = resolved.wait().await.expect_err("no such name");
        let looked_up = resolved.state().looked_up;
        assert_eq!(resolved.wait().await.expect_err("still"), first);
        assert_eq!(resolved.state().looked_up, looked_up, "answered from memory");
    }

    #[tokio::test]
    async fn a_known_answer_is_used_without_waiting() {
        let resolved = Resolved::new("localhost:80".parse().expect("server"));
        let endpoints = resolved.wait().await.expect("localhost resolves");
        resolved.state().looked_up = Instant::now().checked_sub(FRESH);
        let busy = resolved.lookup.clone().try_lock_owned().expect("no lookup is running");
        assert_eq!(
            addresses(&resolved.known()),
            addresses(&endpoints),
            "though the answer is old and a lookup is running"
        );
        drop(busy);
    }

    /// Invariant: a known answer is used without waiting and is refreshed, on any thread. Mechanism: a thread without a
    /// runtime could not start a lookup, and required a fresh answer. Symptom: with a name as its upstream, the reactor
    /// left all requests after the first seconds to the slower path.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_without_a_runtime_uses_an_old_answer_and_refreshes_it() {
        let resolved = Resolved::new("localhost:80".parse().expect("server"));
        let endpoints = resolved.wait().await.expect("localhost resolves");
        resolved.state().looked_up = Instant::now().checked_sub(FRESH);
        let resolving = resolved.clone();
        let known = std::thread::spawn(move || resolving.known()).join().expect("no panic");
        assert_eq!(addresses(&known), addresses(&endpoints), "an old answer is used");
        // The lookup holds the lock until it is done.
        drop(resolved.lookup.lock().await);
        assert!(resolved.is_fresh(), "the answer is refreshed");
    }
}
