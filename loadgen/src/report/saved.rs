//! Reads saved reports, and refuses other files.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::SCHEMA_VERSION;
use super::bench::{self, BenchReport};
use super::compare::{self, CompareReport};
use super::knee::{self, KneeReport};
use super::run::{self, RunReport};
use crate::distribution::HistogramError;

/// A report that was read.
#[derive(Debug)]
pub enum Saved {
    /// Of `run` or `merge`.
    Run(Box<RunReport>),
    /// Of `compare`.
    Compare(Box<CompareReport>),
    /// Of `knee`.
    Knee(Box<KneeReport>),
    /// Of `bench`.
    Bench(Box<BenchReport>),
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no report, or not a whole one.
    #[error("{}: not a report of sse-loadgen --json", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// It is a report of something else.
    #[error("{}: a report of kind `{found}`; expected {expected}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its kind.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// It was written by another version of this program.
    #[error("{}: version {found} of the report; this sse-loadgen {} reads version {SCHEMA_VERSION}", path.display(), env!("CARGO_PKG_VERSION"))]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A histogram in it cannot be used.
    #[error("{}: distributions.{name}", path.display())]
    Histogram {
        /// The file.
        path: PathBuf,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: HistogramError,
    },
    /// Two files hold the same run.
    #[error("{} and {} hold the same run ({run_id}): it would be counted twice", first.display(), second.display())]
    Twice {
        /// The first file.
        first: PathBuf,
        /// The second.
        second: PathBuf,
        /// The run.
        run_id: String,
    },
}

/// What every report begins with.
#[derive(Deserialize)]
struct Head {
    kind: String,
    version: u32,
}

/// Reads any report.
///
/// # Errors
/// See [`SavedError`].
pub fn read(path: &Path) -> Result<Saved, SavedError> {
    let own = || path.to_owned();
    let bytes = std::fs::read(path).map_err(|source| SavedError::Read { path: own(), source })?;
    let form = |source| SavedError::Form { path: own(), source };
    let head: Head = serde_json::from_slice(&bytes).map_err(form)?;
    let is_known = [run::RUN, run::MERGE, compare::KIND, knee::KIND, bench::KIND].contains(&head.kind.as_str());
    if !is_known {
        return Err(SavedError::Kind { path: own(), found: head.kind, expected: "run, merge, compare, knee or bench" });
    }
    if head.version != SCHEMA_VERSION {
        return Err(SavedError::Version { path: own(), found: head.version });
    }
    let saved = match head.kind.as_str() {
        compare::KIND => serde_json::from_slice(&bytes).map(Saved::Compare),
        knee::KIND => serde_json::from_slice(&bytes).map(Saved::Knee),
        bench::KIND => serde_json::from_slice(&bytes).map(Saved::Bench),
        _ => serde_json::from_slice(&bytes).map(Saved::Run),
    };
    saved.map_err(form)
}

/// Reads the report of a single run.
///
/// # Errors
/// Also when it is another report.
pub fn read_run(path: &Path) -> Result<RunReport, SavedError> {
    let found = match read(path)? {
        Saved::Run(report) if report.kind == run::RUN => return Ok(*report),
        Saved::Run(report) => report.kind,
        Saved::Compare(report) => report.kind,
        Saved::Knee(report) => report.kind,
        Saved::Bench(report) => report.kind,
    };
    Err(SavedError::Kind { path: path.to_owned(), found, expected: "run" })
}
