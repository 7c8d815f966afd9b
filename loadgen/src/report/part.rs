//! One of several merged runs, and how much the runs overlap in time.

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;

/// One of the runs that were merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The file it came from.
    pub file: String,
    /// Its `run_id`.
    pub run_id: String,
    /// Its own conditions.
    pub conditions: Conditions,
    /// Requested number of streams.
    pub connections: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether its result could be trusted.
    pub valid: bool,
}

impl Part {
    /// Unix time in seconds.
    pub(super) fn start(&self) -> f64 {
        self.conditions.started_us as f64 / 1e6
    }

    /// The same of its end.
    pub(super) fn end(&self) -> f64 {
        self.start() + self.seconds
    }
}

/// How long all of the runs were active at once, in seconds; `None` when there are none.
pub(super) fn seconds_together(parts: &[Part]) -> Option<f64> {
    let start = parts.iter().map(Part::start).reduce(f64::max)?;
    let end = parts.iter().map(Part::end).reduce(f64::min)?;
    Some((end - start).max(0.0))
}
