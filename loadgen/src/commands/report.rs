//! `sse-loadgen report`: shows a saved result again.

use super::conclude::{Outputs, conclude};
use crate::cli::ReportArgs;
use crate::error::{CommandError, Outcome};
use crate::record::Record;
use crate::report::compare::CompareReport;
use crate::report::progress::Terminal;
use crate::report::run::write_warnings;
use crate::report::saved::{self, Saved, SavedError};
use crate::report::{compare_table, hgrm, knee_table, markdown};

/// Reads a report of `run`, `merge`, `compare`, `knee` or `bench` and shows it as the command that wrote it did.
///
/// # Errors
/// A file that cannot be read.
pub fn run(args: &ReportArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let unreadable = |(name, source)| SavedError::Histogram { path: args.file.clone(), name, source };
    match saved::read(&args.file)? {
        Saved::Run(report) => {
            let record = report.record().map_err(unreadable)?;
            conclude(&report, &record, &Outputs { hgrm: args.hgrm.as_deref(), ..Outputs::default() }, terminal)
        }
        Saved::Compare(report) => {
            let latencies = latencies(&report).map_err(unreadable)?;
            compare_table::write_table(&mut *terminal.out, &report)?;
            terminal.out.flush()?;
            write_warnings(&mut *terminal.err, &report.warnings, terminal.has_colour)?;
            for (name, record) in args.hgrm.iter().flat_map(|_| &latencies) {
                let mut prefix = args.hgrm.clone().unwrap_or_default().into_os_string();
                prefix.push(format!(".{name}"));
                let written = hgrm::write_files(prefix.as_ref(), record);
                written.map_err(|(path, source)| CommandError::Write { path, source })?;
            }
            Ok(if report.valid { Outcome::Good } else { Outcome::NotValid })
        }
        Saved::Knee(report) => {
            knee_table::write_table(&mut *terminal.out, &report)?;
            terminal.out.flush()?;
            write_warnings(&mut *terminal.err, &report.warnings, terminal.has_colour)?;
            Ok(if report.valid { Outcome::Good } else { Outcome::NotValid })
        }
        Saved::Bench(report) => {
            write!(terminal.out, "{}", markdown::page(&report))?;
            terminal.out.flush()?;
            Ok(if report.valid { Outcome::Good } else { Outcome::NotValid })
        }
    }
}

/// The latencies of each target, of all rounds together.
fn latencies(report: &CompareReport) -> Result<Vec<(String, Record)>, (String, crate::distribution::HistogramError)> {
    let mut all = Vec::new();
    for target in &report.targets {
        let mut record = Record::default();
        for round in &target.rounds {
            let latency_us = round.latency().map_err(|error| (format!("{}.latency_hdr_v2", target.name), error))?;
            record.latency_us.merge(&latency_us);
        }
        all.push((target.name.to_string(), record));
    }
    Ok(all)
}
