//! The result of `knee`: how many events per second each target carries before they are late.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;
use super::figures::median;
use super::ratios::{Spread, multiple};
use super::units::time_us;
use crate::integrity::Integrity;
use crate::record::Record;
use crate::target::Target;
use crate::validity::Warning;

/// The `kind` of the document.
pub const KIND: &str = "knee";

/// What one rate has shown on one target, as it was measured.
#[derive(Debug, Clone)]
pub struct StepFigures {
    /// Requested number of streams.
    pub streams: u64,
    /// Events that should have come.
    pub expected_events: u64,
    /// From the first that was due to the last that came.
    pub seconds: f64,
    /// CPU time of the target meanwhile.
    pub cpu_us: Option<u64>,
    /// CPU use of the machine meanwhile, as a share of all cores.
    pub machine_share: f64,
    /// CPU use of the busiest client meanwhile, as a share of one core.
    pub worker_share: Option<f64>,
    /// What the clients saw.
    pub record: Record,
}

/// The whole search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KneeReport {
    /// Identifies the document: [`KIND`].
    pub kind: String,
    /// Version of the document's schema, [`super::SCHEMA_VERSION`].
    pub version: u32,
    /// Under what conditions.
    pub conditions: Conditions,
    /// What the programs say about their versions.
    pub versions: BTreeMap<String, String>,
    /// On how many streams.
    pub streams: u64,
    /// The median latency at which a rate counts as not carried, in microseconds.
    pub limit_us: u64,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether the result can be trusted.
    pub valid: bool,
    /// One entry per target.
    pub targets: Vec<KneeTarget>,
    /// Warnings.
    pub warnings: Vec<Warning>,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KneeTarget {
    /// Which.
    pub name: Target,
    /// The highest rate it carried, events per second, the median of the rounds; none when the lowest was too much.
    pub events_per_second: Option<f64>,
    /// The same as a multiple of nginx's, round by round.
    pub ratio_to_nginx: Option<Spread>,
    /// Every round by itself.
    pub rounds: Vec<KneeRound>,
}

/// One round of one target: rates from the lowest to the first that it did not carry, then those between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KneeRound {
    /// The rates, in the order they were tried.
    pub steps: Vec<KneeStep>,
}

/// One rate on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KneeStep {
    /// Events per second that were due.
    pub rate: f64,
    /// Whether it was carried.
    pub carried: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Events per second that came.
    pub delivered_per_second: f64,
    /// Median latency from when an event was due, in microseconds.
    pub p50: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// What became of the events.
    pub integrity: Integrity,
    /// CPU time of the target per event.
    pub cpu_us_per_event: Option<f64>,
    /// CPU use of the machine, 0 to 1.
    pub machine_cpu_share: f64,
    /// CPU use of the busiest client, 0 to 1.
    pub worker_cpu_share: Option<f64>,
}

impl KneeStep {
    /// Judges a rate.
    #[must_use]
    pub fn of(rate: f64, figures: &StepFigures, limit_us: u64) -> Self {
        let record = &figures.record;
        let events = record.counts.stamped;
        let p50 = record.latency_us.quantile(0.5);
        let reason = reason(figures, p50, limit_us);
        Self {
            rate,
            carried: reason.is_none(),
            reason,
            delivered_per_second: if figures.seconds > 0.0 { events as f64 / figures.seconds } else { 0.0 },
            p50,
            p99: record.latency_us.quantile(0.99),
            integrity: record.integrity,
            cpu_us_per_event: figures.cpu_us.filter(|_| events > 0).map(|cpu_us| cpu_us as f64 / events as f64),
            machine_cpu_share: figures.machine_share,
            worker_cpu_share: figures.worker_share,
        }
    }
}

impl KneeRound {
    /// The highest rate that was carried.
    #[must_use]
    pub fn carried(&self) -> Option<f64> {
        let least_failed = self.failed().unwrap_or(f64::INFINITY);
        let carried = self.steps.iter().filter(|step| step.carried).map(|step| step.rate);
        carried.filter(|rate| *rate < least_failed).reduce(f64::max)
    }

    /// The lowest rate that was not.
    fn failed(&self) -> Option<f64> {
        self.steps.iter().filter(|step| !step.carried).map(|step| step.rate).reduce(f64::min)
    }

    /// The rate to try next: `factor` times the one before, from `from` to `to`, until one is not carried; then `refine`
    /// times the (geometric) middle between the highest that was and the lowest that was not.
    #[must_use]
    pub fn next_rate(&self, from: f64, factor: f64, to: f64, refine: usize) -> Option<f64> {
        let Some(last) = self.steps.last() else { return Some(from) };
        match (self.carried(), self.failed()) {
            (_, None) => Some(last.rate * factor).filter(|rate| *rate <= to),
            (None, Some(_)) => None,
            (Some(carried), Some(failed)) => {
                let climbed = self.steps.iter().take_while(|step| step.carried).count() + 1;
                (self.steps.len() < climbed + refine).then(|| (carried * failed).sqrt())
            }
        }
    }
}

impl KneeTarget {
    /// Whether no rate was too much.
    fn carried_all(&self) -> bool {
        !self.rounds.is_empty() && self.rounds.iter().all(|round| round.failed().is_none())
    }
}

impl KneeReport {
    /// Sums up all rounds of each target.
    #[must_use]
    pub fn new(
        conditions: Conditions,
        versions: BTreeMap<String, String>,
        (streams, limit_us): (u64, u64),
        interrupted: bool,
        rounds: Vec<(Target, Vec<KneeRound>)>,
    ) -> Self {
        let nginx = rounds.iter().find(|(name, _)| *name == Target::Nginx).map(|(_, rounds)| rounds.clone());
        let target = |(name, rounds): (Target, Vec<KneeRound>)| {
            let theirs = nginx.iter().flatten();
            let ratios: Vec<f64> = rounds
                .iter()
                .zip(theirs)
                .filter_map(|(mine, theirs)| multiple(mine.carried(), theirs.carried()))
                .collect();
            KneeTarget {
                name,
                events_per_second: median(rounds.iter().filter_map(KneeRound::carried)),
                ratio_to_nginx: Spread::of(&ratios),
                rounds,
            }
        };
        let targets: Vec<KneeTarget> = rounds.into_iter().map(target).collect();
        let warnings = warnings(&targets);
        let valid = !warnings.iter().any(|warning| warning.invalidates);
        let (kind, version) = (KIND.to_owned(), super::SCHEMA_VERSION);
        Self { kind, version, conditions, versions, streams, limit_us, interrupted, valid, targets, warnings }
    }
}

fn reason(figures: &StepFigures, p50: Option<u64>, limit_us: u64) -> Option<String> {
    let counts = figures.record.counts;
    let missing = figures.streams.saturating_sub(counts.open);
    if missing > 0 {
        return Some(format!("{missing} of {} streams were not held", figures.streams));
    }
    if counts.stamped < figures.expected_events {
        return Some(format!(
            "{} of {} events did not come in time",
            figures.expected_events - counts.stamped,
            figures.expected_events
        ));
    }
    if !figures.record.integrity.is_clean() {
        return Some("events were lost or damaged".to_owned());
    }
    match p50 {
        Some(p50) if p50 < limit_us => None,
        Some(p50) => Some(format!("p50 {}", time_us(p50))),
        None => Some("no event came".to_owned()),
    }
}

fn warnings(targets: &[KneeTarget]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warning = |invalidates, cause: String, remedy: &str| {
        warnings.push(Warning { invalidates, cause, remedy: remedy.to_owned() })
    };
    let direct = targets.iter().find(|target| target.name == Target::Direct);
    if direct.is_none() {
        warning(
            false,
            "`direct` was not measured: where the clients and the origin stop is not known".to_owned(),
            "add direct to --targets",
        );
    }
    let end = direct.filter(|direct| !direct.carried_all()).and_then(|direct| direct.events_per_second);
    for target in targets {
        let steps = || target.rounds.iter().flat_map(|round| &round.steps);
        let damaged: u64 =
            steps().map(|step| step.integrity.duplicated + step.integrity.torn + step.integrity.corrupted).sum();
        if damaged > 0 {
            warning(
                true,
                format!("{}: {damaged} events were duplicated, torn or corrupted", target.name),
                "compare with a direct run: what happens there too is the client's or the origin's fault",
            );
        }
        if target.events_per_second.is_none() {
            warning(
                true,
                format!("{}: the lowest rate was too much already", target.name),
                "begin with a lower rate (--from), or free the machine of other work",
            );
        }
        if target.name != Target::Direct && end.zip(target.events_per_second).is_some_and(|(end, own)| own >= end) {
            warning(
                false,
                format!("{}: stopped where `direct` did, at the clients' and the origin's own limit", target.name),
                "it may carry more: use a machine with more cores",
            );
        }
        if target.carried_all() {
            warning(false, format!("{}: carried every rate that was tried", target.name), "raise --to");
        }
    }
    warnings
}

#[cfg(test)]
#[path = "knee_tests.rs"]
mod tests;
