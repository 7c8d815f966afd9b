//! The result of one run, as text and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::conditions::Conditions;
use super::part::{Part, seconds_together};
use super::units::{bytes, time_us};
use crate::distribution::{Distribution, HistogramError};
use crate::integrity::Integrity;
use crate::record::{Counts, Record};
use crate::validity::Warning;

const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

/// The `kind` of a document about one run.
pub const RUN: &str = "run";
/// The `kind` of a document about several runs, added up.
pub const MERGE: &str = "merge";

/// The result of one run, or of several that `merge` has added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Identifies the document: [`RUN`] or [`MERGE`].
    pub kind: String,
    /// Version of the document's schema, [`super::SCHEMA_VERSION`].
    pub version: u32,
    /// Identifies the run: 128 random bits.
    pub run_id: String,
    /// Under what conditions.
    pub conditions: Conditions,
    /// The URLs.
    pub urls: Vec<String>,
    /// Requested number of streams.
    pub connections: u64,
    /// From the first connection to the end, in seconds.
    pub seconds: f64,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether the result can be trusted.
    pub valid: bool,
    /// Counters.
    pub counts: Counts,
    /// What became of stamped events.
    pub integrity: Integrity,
    /// Early ends by reason.
    pub ends: BTreeMap<String, u64>,
    /// Streams that were open and delivered nothing any more.
    pub stalled: u64,
    /// CPU of the busiest worker as a share of a core.
    pub worker_cpu_share: Option<f64>,
    /// The distributions, by name.
    pub distributions: BTreeMap<String, Summary>,
    /// Warnings.
    pub warnings: Vec<Warning>,
    /// The runs of a merge, in the order in which they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A distribution in a few numbers, and whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Quantiles; `null` when there are no values.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    pub p999: Option<u64>,
    /// The largest value.
    pub max: Option<u64>,
    /// Values above an hour, counted as an hour.
    pub clipped: u64,
    /// Values below zero, counted as zero.
    pub negative: u64,
    /// The HdrHistogram in its V2 encoding, deflated, base64.
    pub hdr_v2: String,
}

impl From<&Distribution> for Summary {
    fn from(distribution: &Distribution) -> Self {
        Self {
            count: distribution.histogram().len(),
            p50: distribution.quantile(0.5),
            p90: distribution.quantile(0.9),
            p99: distribution.quantile(0.99),
            p999: distribution.quantile(0.999),
            max: distribution.max(),
            clipped: distribution.clipped,
            negative: distribution.negative,
            hdr_v2: distribution.to_v2_base64(),
        }
    }
}

/// All distributions of a record, by name.
#[must_use]
pub fn summaries(record: &Record) -> BTreeMap<String, Summary> {
    record.distributions().into_iter().map(|(name, distribution)| (name.to_owned(), distribution.into())).collect()
}

impl RunReport {
    /// The record that the report was made of, every value of it: what `merge` adds.
    ///
    /// # Errors
    /// The distribution that cannot be read.
    pub fn record(&self) -> Result<Record, (String, HistogramError)> {
        let (counts, integrity, stalled) = (self.counts, self.integrity, self.stalled);
        let mut record = Record { counts, integrity, stalled, ends: self.ends.clone(), ..Record::default() };
        for (name, summary) in &self.distributions {
            // A later version may have more of them.
            let Some(distribution) = record.distribution_mut(name) else { continue };
            *distribution = Distribution::from_v2_base64(&summary.hdr_v2, summary.clipped, summary.negative)
                .map_err(|error| (name.clone(), error))?;
        }
        Ok(record)
    }
}

/// Writes the result for people; `record` is what the report was made of.
///
/// # Errors
/// What the stream says.
pub fn write_text(out: &mut dyn Write, report: &RunReport, record: &Record) -> io::Result<()> {
    let counts = report.counts;
    writeln!(out, "{} streams to {}", report.connections, report.urls.join(" "))?;
    if let Some(client_protocol) = report.conditions.client_protocol() {
        writeln!(out, "{client_protocol}: {} connections established", report.counts.connected)?;
    }
    writeln!(out, "{:.1}s{}\n", report.seconds, if report.interrupted { ", interrupted" } else { "" })?;
    if let Some(together) = seconds_together(&report.parts) {
        writeln!(out, "merged      {} runs, all of them active for {together:.1}s", report.parts.len())?;
    }
    writeln!(
        out,
        "streams     {} opened, {} open at the end, {} failed to open",
        counts.streams,
        counts.open,
        counts.attempted - counts.streams
    )?;
    if !report.ends.is_empty() {
        let ends: Vec<String> = report.ends.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        writeln!(out, "ended       {}", ends.join(", "))?;
    }
    let per_second = counts.events as f64 / report.seconds.max(f64::MIN_POSITIVE);
    let rate = bytes(counts.bytes as f64 / report.seconds.max(f64::MIN_POSITIVE));
    writeln!(out, "events      {} ({per_second:.1}/s, {rate}/s), {} heartbeats", counts.events, counts.heartbeats)?;
    if counts.stamped > 0 {
        let Integrity { lost, duplicated, torn, corrupted } = report.integrity;
        writeln!(out, "integrity   {lost} lost, {duplicated} duplicated, {torn} torn, {corrupted} corrupted")?;
    } else {
        writeln!(out, "integrity   not known: the events do not carry the built-in origin's stamps")?;
    }
    writeln!(out)?;
    write_table(out, record)
}

fn write_table(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    write!(out, "{:<16}", "")?;
    for (name, _) in QUANTILES {
        write!(out, "{name:>10}")?;
    }
    writeln!(out, "{:>12}", "count")?;
    for (label, distribution) in [
        ("connect", &record.connect_us),
        ("  TLS handshake", &record.tls_handshake_us),
        ("  from due", &record.connect_from_due_us),
        ("first byte", &record.ttfb_us),
        ("  from due", &record.ttfb_from_due_us),
        ("first event", &record.first_event_us),
        ("  from due", &record.first_event_from_due_us),
        ("due → read", &record.latency_us),
        ("sent → read", &record.transit_us),
        ("due → sent", &record.origin_late_us),
        ("event gap", &record.gap_us),
        ("client timers", &record.timer_late_us),
    ] {
        if distribution.histogram().is_empty() {
            continue;
        }
        write!(out, "{label:<16}")?;
        for (_, quantile) in QUANTILES {
            write!(out, "{:>10}", distribution.quantile(quantile).map(time_us).unwrap_or_default())?;
        }
        writeln!(out, "{:>12}", distribution.histogram().len())?;
    }
    writeln!(out, "\nfrom due: counted from when the ramp had the stream due, time spent waiting to be opened included")
}

/// Writes warnings.
///
/// # Errors
/// What the stream says.
pub fn write_warnings(err: &mut dyn Write, warnings: &[Warning], has_colour: bool) -> io::Result<()> {
    for warning in warnings {
        let (on, off) = match (has_colour, warning.invalidates) {
            (false, _) => ("", ""),
            (true, true) => ("\x1b[31m", "\x1b[0m"),
            (true, false) => ("\x1b[33m", "\x1b[0m"),
        };
        let level = if warning.invalidates { "Not valid" } else { "Warning" };
        writeln!(err, "{on}{level}{off}: {}\n  remedy: {}", warning.cause, warning.remedy)?;
    }
    Ok(())
}
