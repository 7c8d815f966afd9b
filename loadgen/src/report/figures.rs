//! What the turns of a comparison have measured, before it is summed up.

use serde::{Deserialize, Serialize};

use super::opening::OpeningFigures;
use crate::record::Record;
use crate::target::Target;
use crate::target::cgroup::CgroupMemory;
use crate::target::kernel::KernelMemory;
use crate::validity::{self, Evidence, Warning};

/// One socket in this many may belong to another program.
const SOCKET_TOLERANCE: u64 = 50;

/// Proportional set sizes of a target's processes at four moments, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PssReadings {
    /// Before the first connection.
    pub idle: u64,
    /// With the low number of streams, silent.
    pub low: u64,
    /// With all streams, silent.
    pub full: u64,
    /// With all streams, while events flow.
    pub traffic: u64,
    /// Right after the last stream was opened.
    #[serde(default)]
    pub opened: Option<u64>,
    /// After all streams were closed.
    #[serde(default)]
    pub closed: Option<u64>,
}

/// PssReadings memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PssSample {
    /// Since events began to flow.
    pub seconds: f64,
    /// Proportional set size.
    pub bytes: u64,
}

/// PssReadings memory while streams were opened and closed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// How many were to be opened.
    pub streams: u64,
    /// How many were.
    pub opened: u64,
    /// How many were open at once.
    pub batch: u64,
    /// Proportional set size before, and after each tenth, with no stream open.
    pub user_bytes: Vec<u64>,
}

/// What streams take whose clients are flooded and never read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stalled {
    /// How many were to be opened.
    pub streams: u64,
    /// How many were.
    pub opened: u64,
    /// Growth of the target's proportional set size.
    pub user_bytes_per_stream: Option<f64>,
    /// Growth of the machine's kernel memory, clients and origin included; none where others have spoiled the reading.
    pub machine_kernel_bytes_per_stream: Option<f64>,
}

impl Stalled {
    /// From readings before and after.
    #[must_use]
    pub fn between(streams: u64, opened: u64, user: Option<(u64, u64)>, kernel: Option<(u64, u64)>) -> Self {
        let growth = |(before, after)| per_stream(before, after, opened);
        // The reading is the machine's: where it has shrunk, others have given more back than was taken here.
        let (user, kernel) = (user.map(growth), kernel.map(growth).filter(|bytes| *bytes > 0.0));
        Self { streams, opened, user_bytes_per_stream: user, machine_kernel_bytes_per_stream: kernel }
    }
}

/// KernelReadings memory of the whole machine at two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelReadings {
    /// With the low number of streams.
    pub low: KernelMemory,
    /// With all of them.
    pub full: KernelMemory,
}

/// What is charged to the containers of a target at four moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReadings {
    /// Before the turn's first connection.
    pub idle: CgroupMemory,
    /// With the low number of streams, silent.
    pub low: CgroupMemory,
    /// With all streams, silent.
    pub full: CgroupMemory,
    /// With all streams, while events flow.
    pub traffic: CgroupMemory,
}

/// What one turn has measured.
#[derive(Debug, Clone)]
pub struct RoundFigures {
    /// The low number of streams.
    pub low: u64,
    /// The requested number of streams.
    pub streams: u64,
    /// How many of them the clients put on a connection.
    pub streams_per_connection: u64,
    /// Events that should have come.
    pub expected_events: u64,
    /// Memory of the target; `None` when there is no target.
    pub user: Option<PssReadings>,
    /// Memory of the machine's kernel; `None` when the target is a service that ran already.
    pub kernel: Option<KernelReadings>,
    /// Memory charged to the target's containers; `None` where it cannot be read.
    pub charged: Option<CgroupReadings>,
    /// What gauges could not read, and why.
    pub unread: Option<String>,
    /// PssReadings memory while events flowed.
    pub samples: Vec<PssSample>,
    /// What opening all streams but the low number took.
    pub opening: OpeningFigures,
    /// What opening and closing more streams did to memory, if requested.
    pub churn: Option<Churn>,
    /// What clients that do not read take, if requested.
    pub stalled: Option<Stalled>,
    /// Whether streams were silent long enough for heartbeats.
    pub expects_heartbeats: bool,
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

impl Figures {
    /// No turns yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, rounds: Vec::new() }
    }

    pub(super) fn record(&self) -> Record {
        let mut record = Record::default();
        self.rounds.iter().for_each(|round| record.merge(&round.record));
        record
    }

    pub(super) fn kernel_slope(&self) -> Option<f64> {
        median(self.rounds.iter().filter_map(RoundFigures::kernel_slope))
    }

    pub(super) fn charged_slope(&self) -> Option<f64> {
        median(self.memory_rounds().iter().filter_map(RoundFigures::charged_slope))
    }

    pub(super) fn charged_kernel_slope(&self) -> Option<f64> {
        median(self.memory_rounds().iter().filter_map(RoundFigures::charged_kernel_slope))
    }

    /// The rounds whose memory counts: all of a target that is started anew for each turn. A service runs on, and its later
    /// turns use again what the first one has allocated; so its first one only. (A service's machine is not read.)
    pub(super) fn memory_rounds(&self) -> &[RoundFigures] {
        let runs_on = self.rounds.first().is_some_and(|round| round.user.is_some() && round.kernel.is_none());
        if runs_on { &self.rounds[..1] } else { &self.rounds }
    }

    pub(super) fn warnings(&self, record: &Record) -> impl Iterator<Item = Warning> {
        let evidence = Evidence {
            wanted: self.rounds.iter().map(|round| round.streams).sum(),
            held: record.counts.open,
            worker_cpu_share: self.rounds.iter().filter_map(|round| round.worker_share).reduce(f64::max),
            machine_cpu_share: self.rounds.iter().map(|round| round.machine_share).reduce(f64::max),
        };
        let mut warnings = validity::judge(record, evidence);
        let expects_heartbeats = self.rounds.iter().any(|round| round.expects_heartbeats);
        if self.target.has_proxy() && expects_heartbeats && record.counts.open > 0 && record.counts.heartbeats == 0 {
            warnings.push(Warning {
                invalidates: true,
                cause: "no heartbeat came while all streams were silent".to_owned(),
                remedy: "check that the route of sse-proxy has a heartbeat, and that --heartbeat is its interval"
                    .to_owned(),
            });
        }
        let churns =
            self.rounds.iter().filter_map(|round| round.churn.as_ref().map(|churn| (churn.streams, churn.opened)));
        let stalls =
            self.rounds.iter().filter_map(|round| round.stalled.map(|stalled| (stalled.streams, stalled.opened)));
        for (streams, opened) in churns.chain(stalls).filter(|(streams, opened)| opened < streams) {
            warnings.push(Warning {
                invalidates: true,
                cause: format!("{} of {streams} further streams were not opened", streams - opened),
                remedy: "look at the target's log, and at its ports and descriptors".to_owned(),
            });
        }
        if let Some(unread) = self.rounds.iter().find_map(|round| round.unread.as_deref()) {
            warnings.push(Warning {
                invalidates: false,
                cause: format!("a gauge cannot read everything: {unread}"),
                remedy:
                    "give the gauge the process namespace and the user of what it is beside (sse-loadgen gauge --help)"
                        .to_owned(),
            });
        }
        if self.rounds.iter().any(|round| round.is_kernel_disturbed(self.target)) {
            warnings.push(Warning {
                invalidates: false,
                cause: "other sockets came or went while kernel memory was read: it is only roughly right".to_owned(),
                remedy: "let nothing else on the machine open connections, or take the median of more --rounds"
                    .to_owned(),
            });
        }
        let name = self.target.name();
        warnings.into_iter().map(move |warning| Warning { cause: format!("{name}: {}", warning.cause), ..warning })
    }
}

impl RoundFigures {
    pub(super) fn user_slope(&self) -> Option<f64> {
        self.user.map(|user| per_stream(user.low, user.full, self.streams - self.low))
    }

    /// Whether sockets came or went between the two readings that the load does not account for.
    fn is_kernel_disturbed(&self, target: Target) -> bool {
        let Some(kernel) = self.kernel else { return false };
        let open = self.record.counts.open.min(self.streams);
        let sockets = |streams: u64| target.sockets(streams, self.streams_per_connection);
        let expected = sockets(open) - sockets(self.low.min(open));
        let found = kernel.full.sockets.saturating_sub(kernel.low.sockets);
        found.abs_diff(expected) * SOCKET_TOLERANCE > expected
    }

    pub(super) fn kernel_slope(&self) -> Option<f64> {
        self.kernel.map(|kernel| per_stream(kernel.low.bytes, kernel.full.bytes, self.streams - self.low))
    }

    /// Everything charged to the containers but page cache.
    pub(super) fn charged_slope(&self) -> Option<f64> {
        let CgroupReadings { low, full, .. } = self.charged?;
        Some(per_stream(low.without_files(), full.without_files(), self.streams - self.low))
    }

    /// The kernel's share of that.
    fn charged_kernel_slope(&self) -> Option<f64> {
        let CgroupReadings { low, full, .. } = self.charged?;
        Some(per_stream(low.of_kernel()?, full.of_kernel()?, self.streams - self.low))
    }
}

/// What each of `streams` adds when a reading grows from one value to another; negative when it shrinks.
pub(super) fn per_stream(from: u64, to: u64, streams: u64) -> f64 {
    (to as f64 - from as f64) / streams.max(1) as f64
}

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
