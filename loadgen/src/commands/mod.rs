//! One module per command: takes arguments, returns an outcome, writes to the terminal that is passed in.

pub mod bench;
pub mod compare;
mod comparison;
mod conclude;
pub mod gauge;
pub mod knee;
pub mod merge;
pub mod origin;
pub mod report;
pub mod request;
pub mod run;
pub mod signals;
mod turn;

use std::path::Path;

use serde::Serialize;

use crate::error::CommandError;

/// Writes a document, making the directory it goes into.
fn write_json(path: &Path, document: &impl Serialize) -> Result<(), CommandError> {
    let refuse = |source| CommandError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(refuse)?;
    }
    let mut text = serde_json::to_string_pretty(document).map_err(|error| refuse(error.into()))?;
    text.push('\n');
    std::fs::write(path, text).map_err(refuse)
}

/// 128 random bits that identify a run.
fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}
