//! `sse-loadgen merge`: adds up the results of several runs.

use std::path::PathBuf;

use super::conclude::{Outputs, conclude};
use crate::cli::MergeArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::report::conditions::Conditions;
use crate::report::merge::merge;
use crate::report::progress::Terminal;
use crate::report::run::RunReport;
use crate::report::saved;
use crate::report::threshold::Threshold;

/// Reads the runs, adds them, and shows the result as `run` does. Nothing is waited for, so that Ctrl-C just ends it.
///
/// # Errors
/// A file that cannot be read or added.
pub fn run(args: &MergeArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let thresholds: Vec<Threshold> = args.fail_if.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let runs = args.files.iter().map(|path| Ok((path.clone(), saved::read_run(path)?)));
    let runs = runs.collect::<Result<Vec<(PathBuf, RunReport)>, CommandError>>()?;
    let conditions = Conditions::read(limits::raise_descriptor_limit());
    let (report, record) = merge(&runs, super::random_id(), conditions)?;
    let wanted = Outputs { json: args.json.as_deref(), hgrm: args.hgrm.as_deref(), thresholds: &thresholds };
    conclude(&report, &record, &wanted, terminal)
}
