//! The result of a comparison: figures per target, ratios to nginx, as JSON (a stable contract) and as a table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;
use super::figures::{Figures, RoundFigures, median};
use super::opening::Opening;
use super::percentiles::{Latency, Percentiles};
use super::ratios::{RatioSpreads, Ratios, Spread, multiple};
use super::round::RoundReport;
use crate::integrity::Integrity;
use crate::record::Record;
use crate::target::Target;
use crate::validity::Warning;

/// The `kind` of the document.
pub const KIND: &str = "compare";

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareReport {
    /// Identifies the document: [`KIND`].
    pub kind: String,
    /// Version of the document's schema, [`super::SCHEMA_VERSION`].
    pub version: u32,
    /// Under what conditions.
    pub conditions: Conditions,
    /// What the programs say about their versions.
    pub versions: BTreeMap<String, String>,
    /// Where each service was found, if none was started for this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, String>,
    /// Requested number of streams.
    pub streams: u64,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether the result can be trusted.
    pub valid: bool,
    /// One entry per target.
    pub targets: Vec<TargetReport>,
    /// Warnings.
    pub warnings: Vec<Warning>,
}

/// One target. Numbers that cannot be measured for it are `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    /// `direct`, `nginx`, `sse-proxy`, `nginx+sse-proxy` or `haproxy`.
    pub name: Target,
    /// Streams open to the end, in the worst round.
    pub streams_held: u64,
    /// Events delivered in all rounds.
    pub events: u64,
    /// Heartbeats received in all rounds.
    pub heartbeats: u64,
    /// What became of the events.
    pub integrity: Integrity,
    /// Memory, the median of the rounds; of a service that runs on from turn to turn, that of its first.
    pub memory: Memory,
    /// CPU time of the target per event, over all rounds.
    pub cpu_us_per_event: Option<f64>,
    /// From due to read, over all rounds.
    pub latency_us: Latency,
    /// From request sent to first byte.
    pub ttfb_us: Percentiles,
    /// To the same from when the ramp had the stream due.
    #[serde(default)]
    pub ttfb_from_due_us: Percentiles,
    /// Connecting, handshakes included.
    #[serde(default)]
    pub connect_us: Percentiles,
    /// To the same from when the ramp had the stream due.
    #[serde(default)]
    pub connect_from_due_us: Percentiles,
    /// What opening a stream takes, the median of the rounds.
    #[serde(default)]
    pub opening: Opening,
    /// The same as multiples of nginx's.
    pub ratio_to_nginx: Ratios,
    /// The multiples of each round by itself: the median of them, and how far they lie apart.
    #[serde(default)]
    pub ratio_spread: RatioSpreads,
    /// Every round by itself.
    pub rounds: Vec<RoundReport>,
}

/// Memory of a target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Slope of the proportional set size.
    pub user_bytes_per_stream: Option<f64>,
    /// Slope of the kernel's socket memory, less that of `direct`; none where other sockets spoiled the reading. Of a
    /// service in a container: slope of the kernel memory charged to it.
    pub kernel_bytes_per_stream: Option<f64>,
    /// Slope of all that is charged to the service's container but page cache; none where it cannot be read.
    pub cgroup_bytes_per_stream: Option<f64>,
    /// Proportional set size before the first connection.
    pub idle_bytes: Option<u64>,
}

impl CompareReport {
    /// Sums up all turns.
    #[must_use]
    pub fn new(
        conditions: Conditions,
        versions: BTreeMap<String, String>,
        services: BTreeMap<String, String>,
        streams: u64,
        interrupted: bool,
        figures: &[Figures],
    ) -> Self {
        let direct_kernel =
            figures.iter().find(|figures| figures.target == Target::Direct).and_then(Figures::kernel_slope);
        let mut warnings = Vec::new();
        let mut targets: Vec<TargetReport> = Vec::new();
        for figures in figures {
            let record = figures.record();
            warnings.extend(figures.warnings(&record));
            targets.push(target_report(figures, &record, direct_kernel));
        }
        let nginx = targets.iter().find(|target| target.name == Target::Nginx).cloned();
        for target in &mut targets {
            target.ratio_to_nginx = nginx.as_ref().map(|nginx| ratios(target, nginx)).unwrap_or_default();
            target.ratio_spread = nginx.as_ref().map(|nginx| ratio_spreads(target, nginx)).unwrap_or_default();
        }
        let valid = !warnings.iter().any(|warning| warning.invalidates);
        let (kind, version) = (KIND.to_owned(), super::SCHEMA_VERSION);
        Self { kind, version, conditions, versions, services, streams, interrupted, valid, targets, warnings }
    }
}

fn target_report(figures: &Figures, record: &Record, direct_kernel: Option<f64>) -> TargetReport {
    let memory_rounds = figures.memory_rounds();
    let rounds: Vec<RoundReport> = figures.rounds.iter().map(RoundReport::of).collect();
    let cpu_us: Option<u64> = figures.rounds.iter().map(|round| round.cpu_us).sum();
    let events = record.counts.events;
    // The reading is the machine's. Where it says that a stream's sockets cost nothing or less, others were closing theirs.
    let own_kernel =
        figures.kernel_slope().zip(direct_kernel).map(|(own, direct)| own - direct).filter(|bytes| *bytes > 0.0);
    TargetReport {
        name: figures.target,
        streams_held: rounds.iter().map(|round| round.streams_held).min().unwrap_or(0),
        events,
        heartbeats: record.counts.heartbeats,
        integrity: record.integrity,
        memory: Memory {
            user_bytes_per_stream: median(memory_rounds.iter().filter_map(RoundFigures::user_slope)),
            kernel_bytes_per_stream: figures
                .charged_kernel_slope()
                .or(own_kernel.filter(|_| figures.target != Target::Direct)),
            cgroup_bytes_per_stream: figures.charged_slope(),
            idle_bytes: median(memory_rounds.iter().filter_map(|round| Some(round.user?.idle as f64)))
                .map(|idle| idle as u64),
        },
        cpu_us_per_event: cpu_us.filter(|_| events > 0).map(|cpu_us| cpu_us as f64 / events as f64),
        latency_us: Latency::of(record),
        ttfb_us: (&record.ttfb_us).into(),
        ttfb_from_due_us: (&record.ttfb_from_due_us).into(),
        connect_us: (&record.connect_us).into(),
        connect_from_due_us: (&record.connect_from_due_us).into(),
        opening: Opening {
            per_second: median(rounds.iter().filter_map(|round| round.opening.per_second)),
            cpu_us_per_stream: median(rounds.iter().filter_map(|round| round.opening.cpu_us_per_stream)),
        },
        ratio_to_nginx: Ratios::default(),
        ratio_spread: RatioSpreads::default(),
        rounds,
    }
}

/// The ratios of all rounds together.
fn ratios(target: &TargetReport, nginx: &TargetReport) -> Ratios {
    let whole = |mine: Option<u64>, theirs: Option<u64>| multiple(mine.map(|us| us as f64), theirs.map(|us| us as f64));
    Ratios {
        memory: multiple(target.memory.user_bytes_per_stream, nginx.memory.user_bytes_per_stream),
        cpu: multiple(target.cpu_us_per_event, nginx.cpu_us_per_event),
        p50: whole(target.latency_us.p50, nginx.latency_us.p50),
        p99: whole(target.latency_us.p99, nginx.latency_us.p99),
        opening: multiple(target.opening.per_second, nginx.opening.per_second),
    }
}

/// The ratios round by round, as far as both have been measured.
fn ratio_spreads(target: &TargetReport, nginx: &TargetReport) -> RatioSpreads {
    let spread = |of: &dyn Fn(&RoundReport) -> Option<f64>| {
        let pairs = target.rounds.iter().zip(&nginx.rounds);
        let ratios: Vec<f64> = pairs.filter_map(|(mine, theirs)| multiple(of(mine), of(theirs))).collect();
        Spread::of(&ratios)
    };
    RatioSpreads {
        memory: spread(&|round| round.user_bytes_per_stream),
        all_in: spread(&|round| round.user_bytes_per_stream_in_traffic),
        cpu: spread(&|round| round.cpu_us_per_event),
        p50: spread(&|round| Some(round.latency_us.p50? as f64)),
        p99: spread(&|round| Some(round.latency_us.p99? as f64)),
        opening: spread(&|round| round.opening.per_second),
        opening_cpu: spread(&|round| round.opening.cpu_us_per_stream),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
