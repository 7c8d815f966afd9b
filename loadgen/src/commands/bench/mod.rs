//! `sse-loadgen bench`: suite after suite, and one page about all of them.

mod suites;

use std::path::{Path, PathBuf};

use self::suites::{Job, Work, jobs};
use super::comparison::outcome;
use super::signals::Interrupt;
use super::turn::{find_targets, programs};
use super::{compare, knee};
use crate::cli::BenchArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::report::bench::{BenchReport, SuiteReport, SuiteResult};
use crate::report::conditions::Conditions;
use crate::report::progress::Terminal;
use crate::report::{markdown, micro};
use crate::target::{Target, TargetError};

const PAGE: &str = "docs/benchmarks.md";
const QUICK_PAGE: &str = "target/report/benchmarks.md";

/// Measures all suites, shows the page and writes it; after Ctrl-C what was measured is shown and kept as JSON, but the page
/// of the last whole run stays.
///
/// # Errors
/// Before anything is measured: what is missing or does not fit. Afterwards: files that cannot be written.
pub async fn run(args: &BenchArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let conditions = Conditions::read(limits::raise_descriptor_limit());
    let mut left_out = Vec::new();
    let targets = present(args, &mut left_out)?;
    let jobs = possible(jobs(args, &targets, &mut left_out)?, &mut left_out)?;
    for line in &left_out {
        writeln!(terminal.err, "left out: {line}")?;
    }
    let mut interrupt = Interrupt::catch()?;
    let (count, mut suites) = (jobs.len(), Vec::new());
    for (number, job) in jobs.into_iter().enumerate() {
        let prefix = format!("{}/{count} {}: ", number + 1, job.suite);
        let suite = measure(job, &mut interrupt, terminal, &prefix).await;
        if let Some(error) = &suite.error {
            writeln!(terminal.err, "{prefix}{error}")?;
        }
        let is_interrupted = suite.result.as_ref().is_some_and(SuiteResult::is_interrupted);
        suites.push(suite);
        if is_interrupted {
            break;
        }
    }
    let micro = args.criterion.as_deref().map(micro::read).unwrap_or_default();
    let report = BenchReport::new(conditions, args.quick, left_out, suites, micro);
    let page = markdown::page(&report);
    write!(terminal.out, "{page}")?;
    terminal.out.flush()?;
    super::write_json(&args.json, &report)?;
    if !report.interrupted {
        let path = args.markdown.clone().unwrap_or_else(|| PathBuf::from(if args.quick { QUICK_PAGE } else { PAGE }));
        write_page(&path, &page)?;
        writeln!(terminal.err, "written: {} and {}", path.display(), args.json.display())?;
    }
    if report.suites.iter().any(|suite| suite.error.is_some()) {
        return Ok(Outcome::Failed);
    }
    Ok(outcome(report.interrupted, report.valid))
}

/// The requested targets, without HAProxy where it is not installed.
fn present(args: &BenchArgs, left_out: &mut Vec<String>) -> Result<Vec<Target>, CommandError> {
    let mut targets = find_targets(&args.targets)?;
    if args.programs.haproxy_bin.is_none()
        && targets.contains(&Target::Haproxy)
        && let Err(error) = programs::find(&args.programs, &[Target::Haproxy])
    {
        left_out.push(format!("haproxy: {}", one_line(&error.to_string())));
        targets.retain(|target| *target != Target::Haproxy);
    }
    Ok(targets)
}

/// The suites that fit this machine's limits. Anything else that is wrong is wrong for all of them.
fn possible(jobs: Vec<Job>, left_out: &mut Vec<String>) -> Result<Vec<Job>, CommandError> {
    let mut fit = Vec::new();
    for job in jobs {
        let checked = match &job.work {
            Work::Compare(args) => compare::check(args).map(|_| ()),
            Work::Knee(args) => knee::check(args).map(|_| ()),
        };
        match checked {
            Ok(()) => fit.push(job),
            Err(error @ (CommandError::Limit(_) | CommandError::Target(TargetError::ConfigTooSmall { .. }))) => {
                left_out.push(format!("{}: {}", job.suite, one_line(&error.to_string())))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(fit)
}

async fn measure(job: Job, interrupt: &mut Interrupt, terminal: &mut Terminal, prefix: &str) -> SuiteReport {
    let result = match &job.work {
        Work::Compare(args) => {
            let report = compare::measure(args, interrupt, terminal, prefix).await;
            report.map(|report| SuiteResult::Compare(Box::new(report)))
        }
        Work::Knee(args) => {
            let report = knee::measure(args, interrupt, terminal, prefix).await;
            report.map(|report| SuiteResult::Knee(Box::new(report)))
        }
    };
    let (result, error) = match result {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error.to_string())),
    };
    SuiteReport { name: job.suite, command: job.command, error, result }
}

fn write_page(path: &Path, page: &str) -> Result<(), CommandError> {
    let refuse = |source| CommandError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(refuse)?;
    }
    std::fs::write(path, page).map_err(refuse)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
