//! What a comparison has shown, as tables: multiples of nginx's figures first, then the figures.

use super::table::{NOTHING, Table};
use crate::report::bench::Suite;
use crate::report::compare::{CompareReport, TargetReport};
use crate::report::figures::{Stalled, median};
use crate::report::ratios::{RatioSpreads, Spread};
use crate::report::round::RoundReport;
use crate::report::units::{bytes, time_us};
use crate::target::Target;

/// The tables that a suite is about.
pub(super) fn tables(suite: Suite, report: &CompareReport) -> String {
    match suite {
        Suite::Opening => format!("{}{}", ratios(report, OPENING_RATIOS), opening(report)),
        Suite::Churn => churn(report),
        Suite::Stalled => stalled(report),
        _ => format!("{}{}{}", ratios(report, LOAD_RATIOS), figures(report), in_traffic(report)),
    }
}

type Ratio = (&'static str, fn(&RatioSpreads) -> Option<Spread>);

const LOAD_RATIOS: &[Ratio] = &[
    ("memory/stream", |ratios| ratios.memory),
    ("all-in", |ratios| ratios.all_in),
    ("CPU/event", |ratios| ratios.cpu),
    ("p50", |ratios| ratios.p50),
    ("p99", |ratios| ratios.p99),
];
const OPENING_RATIOS: &[Ratio] =
    &[("opened per second", |ratios| ratios.opening), ("CPU/stream opened", |ratios| ratios.opening_cpu)];

fn ratios(report: &CompareReport, columns: &[Ratio]) -> String {
    let head: Vec<&str> = std::iter::once("× nginx").chain(columns.iter().map(|(name, _)| *name)).collect();
    let mut table = Table::new(&head);
    for target in report.targets.iter().filter(|target| target.name != Target::Nginx) {
        table.row(target.name.name(), columns.iter().map(|(_, of)| spread(of(&target.ratio_spread))));
    }
    table.text()
}

fn figures(report: &CompareReport) -> String {
    let head = [
        "",
        "streams",
        "memory/stream",
        "all-in",
        "+ kernel",
        "idle",
        "CPU/event",
        "p50",
        "p99",
        "p99.9",
        "heartbeats",
        "faults",
    ];
    let mut table = Table::new(&head);
    for target in &report.targets {
        let (latency, memory, integrity) = (target.latency_us, target.memory, target.integrity);
        table.row(
            target.name.name(),
            [
                target.streams_held.to_string(),
                size(memory.user_bytes_per_stream),
                size(middle(target, |round| round.user_bytes_per_stream_in_traffic)),
                size(memory.kernel_bytes_per_stream),
                size(memory.idle_bytes.map(|bytes| bytes as f64)),
                cost(target.cpu_us_per_event),
                time(latency.p50),
                time(latency.p99),
                time(latency.p999),
                target.heartbeats.to_string(),
                format!("{}/{}/{}/{}", integrity.lost, integrity.duplicated, integrity.torn, integrity.corrupted),
            ],
        );
    }
    table.text()
}

/// Whether memory grows while events flow, and what is left when all streams are closed.
fn in_traffic(report: &CompareReport) -> String {
    let mut table = Table::new(&[
        "PSS",
        "idle",
        "all streams silent",
        "first tenth of the traffic",
        "end of it",
        "all streams closed",
    ]);
    for target in &report.targets {
        table.row(
            target.name.name(),
            [
                size(middle(target, |round| Some(round.user_bytes?.idle as f64))),
                size(middle(target, |round| Some(round.user_bytes?.full as f64))),
                size(middle(target, |round| Some(round.traffic_samples.first()?.bytes as f64))),
                size(middle(target, |round| Some(round.traffic_samples.last()?.bytes as f64))),
                size(middle(target, |round| Some(round.user_bytes?.closed? as f64))),
            ],
        );
    }
    table.text()
}

fn opening(report: &CompareReport) -> String {
    let head = [
        "",
        "streams",
        "opened per second",
        "CPU/stream opened",
        "first byte p50",
        "first byte p99",
        "from due p99",
        "PSS idle",
        "right after",
        "all streams closed",
    ];
    let mut table = Table::new(&head);
    for target in &report.targets {
        table.row(
            target.name.name(),
            [
                target.streams_held.to_string(),
                target.opening.per_second.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.0}")),
                cost(target.opening.cpu_us_per_stream),
                time(target.ttfb_us.p50),
                time(target.ttfb_us.p99),
                time(target.ttfb_from_due_us.p99),
                size(middle(target, |round| Some(round.user_bytes?.idle as f64))),
                size(middle(target, |round| Some(round.user_bytes?.opened? as f64))),
                size(middle(target, |round| Some(round.user_bytes?.closed? as f64))),
            ],
        );
    }
    table.text()
}

fn churn(report: &CompareReport) -> String {
    let head = ["PSS", "streams opened", "before", "10 %", "30 %", "50 %", "70 %", "100 %", "growth from 10 % on"];
    let mut table = Table::new(&head);
    for target in &report.targets {
        let Some(churn) = target.rounds.last().and_then(|round| round.churn.as_ref()) else { continue };
        let at = |part: usize| churn.user_bytes.get(part).map(|bytes| *bytes as f64);
        let growth = at(10).zip(at(1)).map(|(last, first)| format!("{:+.1} %", (last / first - 1.0) * 100.0));
        let moments = [0, 1, 3, 5, 7, 10].map(|part| size(at(part)));
        let cells = std::iter::once(churn.opened.to_string()).chain(moments);
        table.row(target.name.name(), cells.chain([growth.unwrap_or_else(|| NOTHING.to_owned())]));
    }
    table.text()
}

fn stalled(report: &CompareReport) -> String {
    let mut table = Table::new(&["", "streams that stall", "memory/stream", "the machine's kernel memory/stream"]);
    for target in &report.targets {
        let Some(stalled) = target.rounds.last().and_then(|round| round.stalled) else { continue };
        let of = |of: fn(&Stalled) -> Option<f64>| size(middle(target, |round| of(round.stalled.as_ref()?)));
        table.row(
            target.name.name(),
            [
                stalled.opened.to_string(),
                of(|stalled| stalled.user_bytes_per_stream),
                of(|stalled| stalled.machine_kernel_bytes_per_stream),
            ],
        );
    }
    table.text()
}

fn middle(target: &TargetReport, of: impl Fn(&RoundReport) -> Option<f64>) -> Option<f64> {
    median(target.rounds.iter().filter_map(of))
}

/// `0.82 (0.79–0.85)`
pub(super) fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || NOTHING.to_owned(),
        |spread| format!("**{:.2}** ({:.2}–{:.2})", spread.median, spread.min, spread.max),
    )
}

fn size(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), bytes)
}

pub(super) fn time(value: Option<u64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), time_us)
}

pub(super) fn cost(us: Option<f64>) -> String {
    us.map_or_else(|| NOTHING.to_owned(), |us| format!("{us:.1}µs"))
}
