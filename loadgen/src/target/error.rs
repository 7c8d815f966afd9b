//! Why a target cannot be measured.

use std::path::PathBuf;

use thiserror::Error;

/// Why a target cannot be measured.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The program is not there.
    #[error("cannot find {program}\n  remedy: {remedy}")]
    Missing {
        /// What was looked for.
        program: String,
        /// How to get it.
        remedy: String,
    },
    /// A configuration file cannot be read.
    #[error("cannot read {}: {cause}\n  remedy: run this in a clone of the repository, where the default is, or name your own \
             file with {option}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// The system's error, which stands before the remedy and so is not a source.
        cause: std::io::Error,
    },
    /// The text that is to be replaced is not in the configuration.
    #[error("{}: expected exactly one line that begins with `{expected}`, to put the address in; found {found}", path.display())]
    ConfigText {
        /// The file.
        path: PathBuf,
        /// What is replaced.
        expected: &'static str,
        /// How often it is there.
        found: usize,
    },
    /// The configuration does not allow the requested number of streams.
    #[error("{}: {workers} workers with worker_connections {connections} and a limit of {descriptor_limit} open files each \
             hold at most {fits} streams, not {streams}\n  remedy: use more --workers, raise worker_connections and the limit, \
             or use --streams {fits}", path.display())]
    ConfigTooSmall {
        /// The file.
        path: PathBuf,
        /// How many workers there will be.
        workers: u64,
        /// Connections per worker.
        connections: u64,
        /// Files each of them may have open.
        descriptor_limit: u64,
        /// The requested number.
        streams: u64,
        /// What would fit.
        fits: u64,
    },
    /// A file, a port or a process could not be made.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program did not become ready, or is no longer there.
    #[error("{program} {what}; the end of its log:\n{log}")]
    Failed {
        /// The program.
        program: String,
        /// What happened.
        what: String,
        /// The end of what it said.
        log: String,
    },
    /// A gauge does not answer.
    #[error(
        "cannot read the gauge at {address}: {cause}\n  remedy: start `sse-loadgen gauge` beside the program it is for"
    )]
    Gauge {
        /// Where it should be.
        address: std::net::SocketAddr,
        /// What happened; it stands before the remedy and so is not a source.
        cause: std::io::Error,
    },
    /// A `--service` that is not understood.
    #[error("--service `{text}`: {why}")]
    Service {
        /// As it was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// Memory or CPU time could not be read.
    #[error("cannot read {what}")]
    Reading {
        /// What was to be read.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl TargetError {
    /// Whether another command line would cure it.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::Config { .. }
                | Self::ConfigText { .. }
                | Self::ConfigTooSmall { .. }
                | Self::Service { .. }
        )
    }
}
