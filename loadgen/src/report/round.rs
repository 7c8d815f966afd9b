//! One turn of one target in a report.

use serde::{Deserialize, Serialize};

use super::figures::{
    CgroupReadings, Churn, KernelReadings, PssReadings, PssSample, RoundFigures, Stalled, per_stream,
};
use super::opening::Opening;
use super::percentiles::{Latency, Percentiles};
use crate::distribution::{Distribution, HistogramError};

/// One round of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Streams open to the end.
    pub streams_held: u64,
    /// Events delivered, of how many that were due.
    pub events: u64,
    /// Events that were due.
    pub expected_events: u64,
    /// Readings of user memory.
    pub user_bytes: Option<PssReadings>,
    /// Slope of user memory, silent.
    pub user_bytes_per_stream: Option<f64>,
    /// The same from idle to the reading under traffic.
    pub user_bytes_per_stream_in_traffic: Option<f64>,
    /// PssReadings memory while events flow, at every tenth of the time and at the end.
    #[serde(default)]
    pub traffic_samples: Vec<PssSample>,
    /// PssReadings memory while streams are opened and closed.
    #[serde(default)]
    pub churn: Option<Churn>,
    /// What streams take whose clients never read.
    #[serde(default)]
    pub stalled: Option<Stalled>,
    /// What opening a stream took.
    #[serde(default)]
    pub opening: Opening,
    /// Readings of the machine's kernel memory.
    pub kernel_bytes: Option<KernelReadings>,
    /// Slope of the machine's kernel memory, clients and origin included.
    pub machine_kernel_bytes_per_stream: Option<f64>,
    /// Readings of the memory charged to the service's container.
    pub cgroup_bytes: Option<CgroupReadings>,
    /// Slope of all of that but page cache.
    pub cgroup_bytes_per_stream: Option<f64>,
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
    pub transit_us: Percentiles,
    /// Latencies above an hour, counted as an hour.
    pub latency_clipped: u64,
    /// Latencies below zero, counted as zero.
    pub latency_negative: u64,
    /// Histogram from due to read, HdrHistogram V2, deflated, base64.
    pub latency_hdr_v2: String,
}

impl RoundReport {
    /// Sums up a turn.
    pub(super) fn of(round: &RoundFigures) -> Self {
        let (record, events) = (&round.record, round.record.counts.events);
        Self {
            streams_held: record.counts.open,
            events,
            expected_events: round.expected_events,
            user_bytes: round.user,
            user_bytes_per_stream: round.user_slope(),
            user_bytes_per_stream_in_traffic: round.user.map(|user| per_stream(user.idle, user.traffic, round.streams)),
            traffic_samples: round.samples.clone(),
            churn: round.churn.clone(),
            stalled: round.stalled,
            opening: round.opening.per_stream(),
            kernel_bytes: round.kernel,
            machine_kernel_bytes_per_stream: round.kernel_slope(),
            cgroup_bytes: round.charged,
            cgroup_bytes_per_stream: round.charged_slope(),
            cpu_us: round.cpu_us,
            cpu_us_per_event: round.cpu_us.filter(|_| events > 0).map(|cpu_us| cpu_us as f64 / events as f64),
            machine_cpu_share: round.machine_share,
            worker_cpu_share: round.worker_share,
            latency_us: Latency::of(record),
            transit_us: (&record.transit_us).into(),
            latency_clipped: record.latency_us.clipped,
            latency_negative: record.latency_us.negative,
            latency_hdr_v2: record.latency_us.to_v2_base64(),
        }
    }

    /// The histogram from due to read.
    ///
    /// # Errors
    /// When the document holds none.
    pub fn latency(&self) -> Result<Distribution, HistogramError> {
        Distribution::from_v2_base64(&self.latency_hdr_v2, self.latency_clipped, self.latency_negative)
    }
}
