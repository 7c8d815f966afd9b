//! Adds up the results of runs that loaded the same thing together. Pure: the reports have been read already.
//!
//! Counts are added, and histograms bucket by bucket: percentiles are those of all values together. The percentiles that
//! the reports carry are not looked at, because percentiles of parts say nothing exact about the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::conditions::Conditions;
use super::part::{Part, seconds_together};
use super::run::{MERGE, RunReport, summaries};
use super::saved::SavedError;
use crate::record::Record;
use crate::validity::Warning;

/// Runs that were together for less than this share of the longest are worth a second look.
const SHARE_TOGETHER: f64 = 0.8;

/// Merges; every run comes with the file it was read from.
///
/// # Errors
/// When a run is there twice, or a histogram cannot be added exactly.
pub fn merge(
    runs: &[(PathBuf, RunReport)],
    run_id: String,
    conditions: Conditions,
) -> Result<(RunReport, Record), SavedError> {
    refuse_repeated(runs)?;
    let mut record = Record::default();
    for (path, run) in runs {
        let part = run.record();
        let part = part.map_err(|(name, source)| SavedError::Histogram { path: path.clone(), name, source })?;
        record.merge(&part);
    }
    let parts: Vec<Part> = runs.iter().map(|(path, run)| part(path, run)).collect();
    let urls: BTreeSet<String> = runs.iter().flat_map(|(_, run)| run.urls.iter().cloned()).collect();
    let mut warnings = between(&parts, runs);
    for (part, (_, run)) in parts.iter().zip(runs) {
        let own = run
            .warnings
            .iter()
            .map(|warning| Warning { cause: format!("{}: {}", part.file, warning.cause), ..warning.clone() });
        warnings.extend(own);
    }
    let report = RunReport {
        kind: MERGE.to_owned(),
        version: super::SCHEMA_VERSION,
        run_id,
        conditions: conditions.with_protocol_of(parts.iter().map(|part| &part.conditions)),
        urls: urls.into_iter().collect(),
        connections: parts.iter().map(|part| part.connections).sum(),
        seconds: (latest_end(&parts) - earliest_start(&parts)).max(0.0),
        interrupted: parts.iter().any(|part| part.interrupted),
        valid: parts.iter().all(|part| part.valid) && !warnings.iter().any(|warning| warning.invalidates),
        counts: record.counts,
        integrity: record.integrity,
        ends: record.ends.clone(),
        stalled: record.stalled,
        worker_cpu_share: runs.iter().filter_map(|(_, run)| run.worker_cpu_share).reduce(f64::max),
        distributions: summaries(&record),
        warnings,
        parts,
    };
    Ok((report, record))
}

fn part(path: &Path, run: &RunReport) -> Part {
    Part {
        file: path.display().to_string(),
        run_id: run.run_id.clone(),
        conditions: run.conditions.clone(),
        connections: run.connections,
        seconds: run.seconds,
        interrupted: run.interrupted,
        valid: run.valid,
    }
}

fn earliest_start(parts: &[Part]) -> f64 {
    parts.iter().map(Part::start).fold(f64::INFINITY, f64::min)
}

fn latest_end(parts: &[Part]) -> f64 {
    parts.iter().map(Part::end).fold(f64::NEG_INFINITY, f64::max)
}

fn refuse_repeated(runs: &[(PathBuf, RunReport)]) -> Result<(), SavedError> {
    let mut seen: BTreeMap<&str, &PathBuf> = BTreeMap::new();
    for (path, run) in runs {
        if let Some(first) = seen.insert(&run.run_id, path) {
            let (first, second, run_id) = (first.clone(), path.clone(), run.run_id.clone());
            return Err(SavedError::Twice { first, second, run_id });
        }
    }
    Ok(())
}

/// What is to be doubted about the runs as a whole.
fn between(parts: &[Part], runs: &[(PathBuf, RunReport)]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warning = |invalidates, cause: String, remedy: &str| {
        warnings.push(Warning { invalidates, cause, remedy: remedy.to_owned() });
    };
    let together = seconds_together(parts).unwrap_or(0.0);
    let longest = parts.iter().map(|part| part.seconds).fold(0.0, f64::max);
    let first_end = parts.iter().min_by(|left, right| left.end().total_cmp(&right.end()));
    let last_start = parts.iter().max_by(|left, right| left.start().total_cmp(&right.start()));
    let remedy =
        "start them at the same time, or give them a longer --duration; on several machines, synchronise the clocks";
    match (first_end, last_start) {
        (Some(first), Some(last)) if last.start() >= first.end() => warning(
            true,
            format!(
                "the runs did not overlap in time: {} began {:.1}s after {} had ended, so their streams were never open together",
                last.file,
                last.start() - first.end(),
                first.file
            ),
            remedy,
        ),
        _ if together < longest * SHARE_TOGETHER => warning(
            false,
            format!("all runs were active together for {together:.1}s only, and the longest took {longest:.1}s"),
            remedy,
        ),
        _ => {}
    }
    if runs.iter().any(|(_, run)| run.urls != runs[0].1.urls) {
        warning(
            false,
            "the runs were pointed at different URLs".to_owned(),
            "merge runs of the same load; results of different targets are for `compare`",
        );
    }
    if parts.iter().any(|part| !part.conditions.has_protocol_of(&parts[0].conditions)) {
        warning(
            false,
            "the runs spoke different protocols, or put different numbers of streams on a connection".to_owned(),
            "merge runs of the same load; to compare protocols, measure each by itself",
        );
    }
    for part in parts.iter().filter(|part| part.interrupted) {
        warning(
            false,
            format!("{}: interrupted after {:.1}s", part.file, part.seconds),
            "let every run come to its end",
        );
    }
    if let Some(part) = parts.iter().find(|part| part.conditions.sse_loadgen != parts[0].conditions.sse_loadgen) {
        let (one, other) = (&parts[0].conditions.sse_loadgen, &part.conditions.sse_loadgen);
        warning(false, format!("measured by different versions of sse-loadgen, {one} and {other}"), "use one version");
    }
    warnings
}
