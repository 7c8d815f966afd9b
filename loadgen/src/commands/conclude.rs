//! Prints and writes the result of a run: table, warnings, files, outcome.

use std::path::Path;

use crate::error::{CommandError, Outcome};
use crate::record::Record;
use crate::report::hgrm;
use crate::report::progress::Terminal;
use crate::report::run::{RunReport, write_text, write_warnings};
use crate::report::threshold::Threshold;

/// What is wanted beside the table.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Outputs<'a> {
    /// A document.
    pub(super) json: Option<&'a Path>,
    /// Percentile distributions.
    pub(super) hgrm: Option<&'a Path>,
    /// Limits that make it fail.
    pub(super) thresholds: &'a [Threshold],
}

/// Shows and writes a result; `record` is what the report was made of.
pub(super) fn conclude(
    report: &RunReport,
    record: &Record,
    wanted: &Outputs<'_>,
    terminal: &mut Terminal,
) -> Result<Outcome, CommandError> {
    write_text(&mut *terminal.out, report, record)?;
    terminal.out.flush()?;
    write_warnings(&mut *terminal.err, &report.warnings, terminal.has_colour)?;
    if let Some(path) = wanted.json {
        super::write_json(path, report)?;
    }
    if let Some(prefix) = wanted.hgrm {
        hgrm::write_files(prefix, record).map_err(|(path, source)| CommandError::Write { path, source })?;
    }
    let crossed: Vec<String> =
        wanted.thresholds.iter().filter(|threshold| threshold.is_crossed(record)).map(ToString::to_string).collect();
    for threshold in &crossed {
        writeln!(terminal.err, "Failed: {threshold}")?;
    }
    Ok(match (report.valid, crossed.is_empty()) {
        (false, _) => Outcome::NotValid,
        (true, false) => Outcome::ThresholdCrossed,
        (true, true) => Outcome::Good,
    })
}
