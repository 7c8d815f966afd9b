//! Gates: streams that wait, silent, for a common start that is not known when they are opened.
//!
//! `GET /events?gate=NAME` waits; `POST /gate?name=NAME&at=UNIX_US` sets the start for all that wait and all that follow.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The gates of one origin, shared by its threads.
#[derive(Debug, Default)]
pub(super) struct Gates {
    by_name: Mutex<HashMap<Box<str>, watch::Sender<Option<u64>>>>,
}

impl Gates {
    /// Opens a gate: nothing behind it is due before `at_us`.
    pub(super) fn open(&self, name: &str, at_us: u64) {
        self.with(name, |gate| gate.send_replace(Some(at_us)));
    }

    /// Waits until the gate is open and returns the start. Cancel-safe.
    pub(super) async fn opened(&self, name: &str) -> u64 {
        let mut gate = self.with(name, watch::Sender::subscribe);
        let start = gate.wait_for(Option::is_some).await.map(|start| *start);
        start.ok().flatten().unwrap_or(0)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&watch::Sender<Option<u64>>) -> T) -> T {
        let mut gates = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        act(gates.entry(name.into()).or_insert_with(|| watch::channel(None).0))
    }
}
