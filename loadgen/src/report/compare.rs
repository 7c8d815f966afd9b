//! The result of a comparison: figures per target, ratios to nginx, as JSON (a stable contract) and as a table.

use std::collections::BTreeMap;

use serde::Serialize;

use super::conditions::Conditions;
use crate::integrity::Integrity;
use crate::record::Record;
use crate::target::Target;
use crate::target::kernel::Method;
use crate::validity::{self, Doubt, Evidence};

pub use super::compare_table::write_table;

/// Proportional set sizes of a target's processes at four moments, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct User {
    /// Before the first connection.
    pub idle: u64,
    /// With the low number of streams, silent.
    pub low: u64,
    /// With all streams, silent.
    pub full: u64,
    /// With all streams, while events flow.
    pub traffic: u64,
}

/// Kernel memory of the whole machine at two moments, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// With the low number of streams.
    pub low: u64,
    /// With all of them.
    pub full: u64,
    /// What was counted.
    pub method: Method,
}

/// What one turn has measured.
#[derive(Debug, Clone)]
pub struct RoundFigures {
    /// The low number of streams.
    pub low: u64,
    /// The number of streams asked for.
    pub streams: u64,
    /// Events that should have come.
    pub expected_events: u64,
    /// Memory of the target; `None` when there is no target.
    pub user: Option<User>,
    /// Memory of the kernel.
    pub kernel: Kernel,
    /// CPU time of the target while events flowed.
    pub cpu_us: Option<u64>,
    /// CPU use of the machine meanwhile, as a share of all cores.
    pub machine_share: f64,
    /// CPU use of the busiest client meanwhile, as a share of one core.
    pub worker_share: Option<f64>,
    /// What the clients saw.
    pub record: Record,
}

/// All turns of one target.
#[derive(Debug, Clone)]
pub struct Figures {
    /// The target.
    pub target: Target,
    /// Its turns.
    pub rounds: Vec<RoundFigures>,
}

/// The whole comparison.
#[derive(Debug, Serialize)]
pub struct CompareReport {
    /// Tells this document from others.
    pub kind: &'static str,
    /// Under what conditions.
    pub conditions: Conditions,
    /// What the programs say about their versions.
    pub versions: BTreeMap<&'static str, String>,
    /// Streams asked for.
    pub streams: u64,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether the result can be trusted.
    pub valid: bool,
    /// One entry per target.
    pub targets: Vec<TargetReport>,
    /// Reasons to doubt.
    pub warnings: Vec<Doubt>,
}

/// One target. Numbers that cannot be measured for it are `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetReport {
    /// `direct`, `nginx`, `sse-proxy` or `nginx+sse-proxy`.
    pub name: Target,
    /// Streams open to the end, in the worst round.
    pub streams_held: u64,
    /// Events delivered in all rounds.
    pub events: u64,
    /// Heartbeats received in all rounds.
    pub heartbeats: u64,
    /// What became of the events.
    pub integrity: Integrity,
    /// Memory, the median of the rounds.
    pub memory: Memory,
    /// CPU time of the target per event, over all rounds.
    pub cpu_us_per_event: Option<f64>,
    /// From due to read, over all rounds.
    pub latency_us: Latency,
    /// From request sent to first byte.
    pub ttfb_us: FirstByte,
    /// The same as multiples of nginx's.
    pub ratio_to_nginx: Ratios,
    /// Every round by itself.
    pub rounds: Vec<RoundReport>,
}

/// Memory of a target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Slope of the proportional set size.
    pub user_bytes_per_stream: Option<f64>,
    /// Slope of the kernel's socket memory, less that of `direct`.
    pub kernel_bytes_per_stream: Option<f64>,
    /// Proportional set size before the first connection.
    pub idle_bytes: Option<u64>,
}

/// Delivery latency in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    pub p999: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}

/// Time to first byte in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FirstByte {
    /// Median.
    pub p50: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
}

/// Multiples of nginx's numbers; below 1 is better than nginx.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// User memory per stream.
    pub memory: Option<f64>,
    /// CPU time per event.
    pub cpu: Option<f64>,
    /// Median latency.
    pub p50: Option<f64>,
    /// 99 % latency.
    pub p99: Option<f64>,
}

/// One round of one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundReport {
    /// Streams open to the end.
    pub streams_held: u64,
    /// Events delivered, of how many that were due.
    pub events: u64,
    /// Events that were due.
    pub expected_events: u64,
    /// Readings of user memory.
    pub user_bytes: Option<User>,
    /// Slope of user memory, silent.
    pub user_bytes_per_stream: Option<f64>,
    /// The same from idle to the reading under traffic.
    pub user_bytes_per_stream_in_traffic: Option<f64>,
    /// Readings of the machine's kernel memory.
    pub kernel_bytes: Kernel,
    /// Slope of the machine's kernel memory, clients and origin included.
    pub machine_kernel_bytes_per_stream: f64,
    /// CPU time of the target.
    pub cpu_us: Option<u64>,
    /// CPU time of the target per event.
    pub cpu_us_per_event: Option<f64>,
    /// CPU use of the machine, 0 to 1.
    pub machine_cpu_share: f64,
    /// CPU use of the busiest client, 0 to 1.
    pub worker_cpu_share: Option<f64>,
    /// From due to read.
    pub latency_us: Latency,
    /// From sent to read, 50 % and 99 %.
    pub transit_us: FirstByte,
    /// Histogram from due to read, HdrHistogram V2, base64.
    pub latency_hdr_v2: String,
}

impl Figures {
    /// No turns yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, rounds: Vec::new() }
    }

    fn record(&self) -> Record {
        let mut record = Record::default();
        self.rounds.iter().for_each(|round| record.merge(&round.record));
        record
    }

    fn kernel_slope(&self) -> Option<f64> {
        median(self.rounds.iter().map(RoundFigures::kernel_slope))
    }

    fn doubts(&self, record: &Record) -> impl Iterator<Item = Doubt> {
        let evidence = Evidence {
            wanted: self.rounds.iter().map(|round| round.streams).sum(),
            held: record.counts.open,
            worker_cpu_share: self.rounds.iter().filter_map(|round| round.worker_share).reduce(f64::max),
            machine_cpu_share: self.rounds.iter().map(|round| round.machine_share).reduce(f64::max),
        };
        let name = self.target.name();
        validity::judge(record, evidence)
            .into_iter()
            .map(move |doubt| Doubt { cause: format!("{name}: {}", doubt.cause), ..doubt })
    }
}

impl RoundFigures {
    fn per_stream(&self, from: u64, to: u64, streams: u64) -> f64 {
        (to as f64 - from as f64) / streams.max(1) as f64
    }

    fn user_slope(&self) -> Option<f64> {
        self.user.map(|user| self.per_stream(user.low, user.full, self.streams - self.low))
    }

    fn kernel_slope(&self) -> f64 {
        self.per_stream(self.kernel.low, self.kernel.full, self.streams - self.low)
    }

    fn report(&self) -> RoundReport {
        let (record, events) = (&self.record, self.record.counts.events);
        RoundReport {
            streams_held: record.counts.open,
            events,
            expected_events: self.expected_events,
            user_bytes: self.user,
            user_bytes_per_stream: self.user_slope(),
            user_bytes_per_stream_in_traffic: self
                .user
                .map(|user| self.per_stream(user.idle, user.traffic, self.streams)),
            kernel_bytes: self.kernel,
            machine_kernel_bytes_per_stream: self.kernel_slope(),
            cpu_us: self.cpu_us,
            cpu_us_per_event: self.cpu_us.filter(|_| events > 0).map(|cpu_us| cpu_us as f64 / events as f64),
            machine_cpu_share: self.machine_share,
            worker_cpu_share: self.worker_share,
            latency_us: Latency::of(record),
            transit_us: FirstByte { p50: record.transit_us.quantile(0.5), p99: record.transit_us.quantile(0.99) },
            latency_hdr_v2: record.latency_us.to_v2_base64(),
        }
    }
}

impl Latency {
    fn of(record: &Record) -> Self {
        let latency = &record.latency_us;
        Self {
            p50: latency.quantile(0.5),
            p99: latency.quantile(0.99),
            p999: latency.quantile(0.999),
            max: latency.max(),
        }
    }
}

impl CompareReport {
    /// Sums up all turns.
    #[must_use]
    pub fn new(
        conditions: Conditions,
        versions: BTreeMap<&'static str, String>,
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
            warnings.extend(figures.doubts(&record));
            targets.push(target_report(figures, &record, direct_kernel));
        }
        let nginx = targets.iter().find(|target| target.name == Target::Nginx).cloned();
        for target in &mut targets {
            target.ratio_to_nginx = nginx.as_ref().map(|nginx| Ratios::between(target, nginx)).unwrap_or_default();
        }
        let valid = !warnings.iter().any(|doubt| doubt.invalidates);
        Self { kind: "compare", conditions, versions, streams, interrupted, valid, targets, warnings }
    }
}

impl Ratios {
    fn between(target: &TargetReport, nginx: &TargetReport) -> Self {
        let ratio = |mine: Option<f64>, theirs: Option<f64>| {
            mine.zip(theirs).filter(|(_, theirs)| *theirs > 0.0).map(|(mine, theirs)| mine / theirs)
        };
        let whole =
            |mine: Option<u64>, theirs: Option<u64>| ratio(mine.map(|us| us as f64), theirs.map(|us| us as f64));
        Self {
            memory: ratio(target.memory.user_bytes_per_stream, nginx.memory.user_bytes_per_stream),
            cpu: ratio(target.cpu_us_per_event, nginx.cpu_us_per_event),
            p50: whole(target.latency_us.p50, nginx.latency_us.p50),
            p99: whole(target.latency_us.p99, nginx.latency_us.p99),
        }
    }
}

fn target_report(figures: &Figures, record: &Record, direct_kernel: Option<f64>) -> TargetReport {
    let rounds: Vec<RoundReport> = figures.rounds.iter().map(RoundFigures::report).collect();
    let cpu_us: Option<u64> = figures.rounds.iter().map(|round| round.cpu_us).sum();
    let events = record.counts.events;
    let own_kernel = figures.kernel_slope().zip(direct_kernel).map(|(own, direct)| own - direct);
    TargetReport {
        name: figures.target,
        streams_held: rounds.iter().map(|round| round.streams_held).min().unwrap_or(0),
        events,
        heartbeats: record.counts.heartbeats,
        integrity: record.integrity,
        memory: Memory {
            user_bytes_per_stream: median(figures.rounds.iter().filter_map(RoundFigures::user_slope)),
            kernel_bytes_per_stream: own_kernel.filter(|_| figures.target != Target::Direct),
            idle_bytes: median(figures.rounds.iter().filter_map(|round| Some(round.user?.idle as f64)))
                .map(|idle| idle as u64),
        },
        cpu_us_per_event: cpu_us.filter(|_| events > 0).map(|cpu_us| cpu_us as f64 / events as f64),
        latency_us: Latency::of(record),
        ttfb_us: FirstByte { p50: record.ttfb_us.quantile(0.5), p99: record.ttfb_us.quantile(0.99) },
        ratio_to_nginx: Ratios::default(),
        rounds,
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
