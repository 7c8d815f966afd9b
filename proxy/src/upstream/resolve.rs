//! A server's addresses, kept for a few seconds: containers that are restarted come back under another one.
//!
//! Nobody waits for a name that has an answer, old as it may be: it is looked up anew beside the requests that use it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Server;

/// How long an answer of the name service, or its failure, is used before it is asked again.
const FRESH: Duration = Duration::from_secs(5);

/// How long looking a name up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// What is known of one server's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    state: Arc<Mutex<State>>,
    /// Held while the name is looked up, by one at a time; those who have nothing to use wait for it.
    lookup: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<SocketAddr>,
    asked: Option<Instant>,
    failure: Option<String>,
}

impl Resolved {
    /// The addresses that can be used without waiting: an address that needs no name service, or its last answer. Asks
    /// again in the background where that is old.
    pub(super) fn known(&self, server: &Server) -> Vec<SocketAddr> {
        if let Some(ip) = server.ip() {
            return vec![SocketAddr::new(ip, server.port)];
        }
        if !self.is_fresh()
            && let Ok(turn) = self.lookup.clone().try_lock_owned()
        {
            let (this, server) = (self.clone(), server.clone());
            tokio::spawn(async move {
                this.ask(&server).await;
                drop(turn);
            });
        }
        self.state().addresses.clone()
    }

    /// The addresses of a server for plain TCP, where they are known and nobody has to be asked.
    pub(super) fn plain(&self, server: &Server) -> Option<Vec<SocketAddr>> {
        match server.ip() {
            _ if server.tls => None,
            Some(ip) => Some(vec![SocketAddr::new(ip, server.port)]),
            None => self.is_fresh().then(|| self.state().addresses.clone()).filter(|known| !known.is_empty()),
        }
    }

    /// The addresses of a name that has none yet. Those who come while it is being looked up share the answer.
    ///
    /// # Errors
    /// What the name service said, if it has failed within the last seconds.
    pub(super) async fn wait(&self, server: &Server) -> Result<Vec<SocketAddr>, String> {
        let turn = self.lookup.lock().await;
        if !self.is_fresh() {
            self.ask(server).await;
        }
        drop(turn);
        let state = self.state();
        match &state.failure {
            Some(failure) if state.addresses.is_empty() => Err(failure.clone()),
            _ => Ok(state.addresses.clone()),
        }
    }

    async fn ask(&self, server: &Server) {
        let lookup = tokio::net::lookup_host((server.host.as_str(), server.port));
        let found = match tokio::time::timeout(LOOKUP_LIMIT, lookup).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer")),
        };
        let mut state = self.state();
        state.asked = Some(Instant::now());
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                state.addresses = addresses;
                state.failure = None;
            }
            // The last answer stays in use.
            Ok(_) => state.failure = Some("the name has no address".to_owned()),
            Err(error) => state.failure = Some(error.to_string()),
        }
        if let Some(failure) = &state.failure {
            log::error!("name resolution failed: side=upstream server={}: {failure}", server.host);
        }
    }

    fn is_fresh(&self) -> bool {
        self.state().asked.is_some_and(|asked| asked.elapsed() < FRESH)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_fails_is_not_asked_for_again_at_once() {
        let server: Server = "no-such-name.invalid:80".parse().expect("server");
        let resolved = Resolved::default();
        assert!(resolved.known(&server).is_empty());
        let first = resolved.wait(&server).await.expect_err("no such name");
        let asked = resolved.state().asked;
        assert_eq!(resolved.wait(&server).await, Err(first));
        assert_eq!(resolved.state().asked, asked, "answered from memory");
    }

    #[tokio::test]
    async fn an_answer_is_used_without_waiting() {
        let server: Server = "localhost:80".parse().expect("server");
        let resolved = Resolved::default();
        let addresses = resolved.wait(&server).await.expect("localhost resolves");
        resolved.state().asked = None;
        let busy = resolved.lookup.clone().try_lock_owned().expect("nobody is asking");
        assert_eq!(resolved.known(&server), addresses, "though the answer is old and somebody is asking");
        drop(busy);
    }
}
