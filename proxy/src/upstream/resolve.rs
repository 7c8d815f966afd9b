//! A server's addresses, kept for a few seconds: containers that are restarted come back under another one.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::config::Server;

/// How long an answer of the name service is used.
const FRESH: Duration = Duration::from_secs(5);

/// How long looking a name up may take before the last answer is used instead.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Resolved {
    answer: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Resolved {
    /// The addresses of `server`. One lookup at a time; those who come meanwhile share its answer.
    ///
    /// # Errors
    /// When the name does not resolve and never has.
    pub(super) async fn addresses(&self, server: &Server) -> io::Result<Vec<SocketAddr>> {
        if let Some(ip) = server.ip() {
            return Ok(vec![SocketAddr::new(ip, server.port)]);
        }
        let mut answer = self.answer.lock().await;
        if let Some((at, addresses)) = &*answer
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let lookup = tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((server.host.as_str(), server.port)));
        let fresh = match lookup.await {
            Ok(Ok(found)) => Ok(found.collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer")),
        };
        match (fresh, &*answer) {
            (Ok(addresses), _) if !addresses.is_empty() => {
                *answer = Some((Instant::now(), addresses.clone()));
                Ok(addresses)
            }
            (_, Some((_, stale))) => Ok(stale.clone()),
            (Ok(_), None) => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            (Err(error), None) => Err(error),
        }
    }
}
