//! Idle connections to upstreams.

use std::sync::Arc;
use std::time::Duration;

use pingora_pool::{ConnectionMeta, ConnectionPool};
use tokio::sync::Mutex;

use super::connection::UpstreamConnection;

/// Limit on idle connections, over all upstreams; the least recently used is closed first.
const MOST_IDLE: usize = 128;

/// How long an idle connection is kept (`keepalive_timeout` of nginx's `upstream`).
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// The idle connections of a process.
pub(super) struct Pool(Arc<ConnectionPool<Arc<Mutex<UpstreamConnection>>>>);

impl Default for Pool {
    fn default() -> Self {
        Self(Arc::new(ConnectionPool::new(MOST_IDLE)))
    }
}

impl Pool {
    /// Takes an idle connection to the server of `key`. The server may be closing it at this moment.
    pub(super) async fn take(&self, key: u64) -> Option<UpstreamConnection> {
        while let Some(idle) = self.0.get(&key) {
            // The task that watches it releases it.
            drop(idle.lock().await);
            let Ok(mutex) = Arc::try_unwrap(idle) else { continue };
            let mut connection = mutex.into_inner();
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection, whose last response has been read completely, for the next request to the same server.
    /// Closes it when the server does, or after the limit. Must be called on a tokio runtime.
    pub(super) fn put(&self, key: u64, mut connection: UpstreamConnection) {
        if !connection.is_quiet() {
            return;
        }
        let meta = ConnectionMeta::new(key, connection.descriptor());
        let connection = Arc::new(Mutex::new(connection));
        // It is not shared yet, so the lock is free.
        let Ok(watched) = connection.clone().try_lock_owned() else { return };
        let (evicted, used) = self.0.put(&meta, connection);
        let pool = self.0.clone();
        tokio::spawn(async move { pool.idle_poll(watched, &meta, Some(IDLE_LIMIT), evicted, used).await });
    }
}
