//! What a search for the highest rate has shown, as tables.

use super::compare::{cost, spread, time};
use super::table::{NOTHING, Table};
use crate::report::knee::{KneeReport, KneeStep, KneeTarget};

/// The knees, and what each target costs at rates that all were tried at.
pub(super) fn tables(report: &KneeReport) -> String {
    let mut knees = Table::new(&[
        "",
        "events per second",
        "× nginx",
        "rounds",
        "at that rate: p50",
        "p99",
        "CPU/event",
        "what stopped it",
    ]);
    for target in &report.targets {
        let rate = |rate: Option<f64>| rate.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.0}"));
        let rounds: Vec<String> = target.rounds.iter().map(|round| rate(round.carried())).collect();
        let best = best(target);
        knees.row(
            target.name.name(),
            [
                rate(target.events_per_second),
                spread(target.ratio_to_nginx),
                rounds.join(", "),
                time(best.and_then(|step| step.p50)),
                time(best.and_then(|step| step.p99)),
                cost(best.and_then(|step| step.cpu_us_per_event)),
                stopped(target).unwrap_or_else(|| NOTHING.to_owned()),
            ],
        );
    }
    knees.text()
}

/// The highest rate carried in the last round.
fn best(target: &KneeTarget) -> Option<&KneeStep> {
    let round = target.rounds.last()?;
    let carried = round.carried()?;
    round.steps.iter().find(|step| step.carried && step.rate >= carried)
}

/// The lowest rate that was not carried in the last round, and why.
fn stopped(target: &KneeTarget) -> Option<String> {
    let failed = target.rounds.last()?.steps.iter().filter(|step| !step.carried);
    let first = failed.min_by(|one, other| one.rate.total_cmp(&other.rate))?;
    Some(format!("{:.0}: {}", first.rate, first.reason.as_deref().unwrap_or_default()))
}
