//! The settings of the whole process: `drain`, `threads`, `driver`.

use serde::Deserialize;

use super::error::Problem;
use super::retry::RetryConfig;
use super::values::{self, Limit};

/// The largest number of threads.
const MAX_THREADS: usize = 1024;

/// What happens to streams on SIGTERM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map: `drain: {timeout: 30s}`")]
pub struct Drain {
    /// How long listeners accept after `/readyz` has turned 503.
    pub ready_delay: Limit,
    /// The time within which each stream ends at a moment of its own.
    pub spread: Limit,
    /// From the signal until streams that have not ended are cut.
    pub timeout: Limit,
    /// The `retry:` field that streams end with.
    pub retry: RetryConfig,
}

impl Default for Drain {
    fn default() -> Self {
        let timeout = Limit::seconds(30);
        Self { ready_delay: Limit::none(), spread: Limit::none(), timeout, retry: RetryConfig::default() }
    }
}

impl Drain {
    /// Checks the times beside each other.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let (delay, spread) = (self.ready_delay.get().unwrap_or_default(), self.spread.get().unwrap_or_default());
        let Some(timeout) = self.timeout.get().filter(|timeout| *timeout <= delay + spread) else { return Ok(()) };
        if (delay + spread).is_zero() {
            return Ok(());
        }
        let what = format!(
            "is {}, and the streams are to end {} after the signal (ready_delay and spread)",
            values::show(timeout),
            values::show(delay + spread)
        );
        let remedy = "make it longer than both together, so that the last streams can reach the end of an event";
        Err(Problem::new(&["drain", "timeout"], what, remedy))
    }
}

/// The driver of streams that are plain TCP on both sides; every other stream has a task.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum DriverConfig {
    /// A table for each thread, with the least memory and CPU.
    #[default]
    Parked,
    /// A task for each stream.
    Task,
}

/// Checks `threads`.
pub(super) fn check_threads(threads: Option<usize>) -> Result<(), Problem> {
    if threads == Some(0) {
        return Err(Problem::new(&["threads"], "is 0", "leave it out for one thread per core"));
    }
    if let Some(threads) = threads.filter(|threads| *threads > MAX_THREADS) {
        let remedy = format!("write at most {MAX_THREADS}, or leave it out for one thread per core");
        return Err(Problem::new(&["threads"], format!("is {threads}"), remedy));
    }
    Ok(())
}
