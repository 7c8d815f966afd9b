//! The errors of commands, and their exit codes.

use std::path::PathBuf;

use thiserror::Error;

use crate::fleet::FleetError;
use crate::limits::LimitError;
use crate::origin::OriginError;
use crate::plan::PlanError;
use crate::report::saved::SavedError;
use crate::report::threshold::ThresholdError;
use crate::target::{TargetError, UnknownTarget};
use crate::url::UrlError;
use crate::worker::{PrepareError, ServeError};

/// Why a command did not come to a result.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A ramp or source list cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A threshold cannot be used.
    #[error(transparent)]
    Threshold(#[from] ThresholdError),
    /// A saved report cannot be used.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The load does not fit the machine.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The origin cannot start.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// TLS cannot be spoken, or not with this request.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The workers failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A target that does not exist.
    #[error(transparent)]
    UnknownTarget(#[from] UnknownTarget),
    /// A target cannot be started or read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A worker process failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Standard streams, signals or the runtime failed.
    #[error("system error")]
    Io(#[from] std::io::Error),
}

impl CommandError {
    /// 64 for what another command line would cure, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Url(_)
            | Self::Plan(_)
            | Self::Threshold(_)
            | Self::Saved(_)
            | Self::Limit(_)
            | Self::Prepare(_)
            | Self::UnknownTarget(_) => 64,
            Self::Target(error) if error.is_usage() => 64,
            _ => 1,
        }
    }
}

/// How a command that came to a result ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The result stands.
    Good,
    /// A `--fail-if` threshold was crossed.
    ThresholdCrossed,
    /// A part of it failed; the rest was shown.
    Failed,
    /// The result cannot be trusted; the warnings say why.
    NotValid,
    /// Ctrl-C; what was measured so far was shown.
    Interrupted,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::ThresholdCrossed | Self::Failed => 1,
            Self::NotValid => 2,
            Self::Interrupted => 130,
        }
    }
}
