//! The table at the end of a comparison: a line of numbers per target, and under it the same as multiples of nginx's.

use std::io::{self, Write};

use super::compare::{CompareReport, TargetReport};
use super::figures::median;
use super::units::{bytes, time_us};

const COLUMNS: [&str; 16] = [
    "streams",
    "memory/stream",
    "all-in",
    "+ kernel",
    "idle",
    "CPU/open",
    "opened/s",
    "CPU/event",
    "p50",
    "p99",
    "p99.9",
    "max",
    "first byte p99",
    "from due p99",
    "heartbeats",
    "faults",
];
/// What each column says, one line each; `loadgen/README.md` has the same.
pub const LEGEND: &[(&str, &str)] = &[
    ("streams", "streams that were held open, in all rounds together"),
    ("memory/stream", "what one more silent stream adds to the memory (PSS) of the target's processes"),
    ("all-in", "what traffic on all streams adds to idle, per stream: one-time costs included"),
    ("+ kernel", "kernel memory for one more stream, its sockets, less that of direct"),
    ("idle", "memory of the target's processes before the first connection"),
    ("CPU/open", "CPU time of the target per stream opened"),
    ("opened/s", "streams opened per second, if they were opened as fast as possible (--ramp-rate max)"),
    ("CPU/event", "CPU time of the target while events flow, per event delivered"),
    (
        "p50 … max",
        "latency of events, from when each was due at the origin until a client had read it: half, 99 %, 99.9 %, all of them took at most this",
    ),
    ("first byte p99", "from the request sent to the first byte of the response, for 99 % of the streams"),
    ("from due p99", "to the same byte, from when the ramp had the stream due"),
    ("heartbeats", "comments that arrived while the streams were silent; only sse-proxy sends them"),
    ("faults", "events lost/duplicated/torn/corrupted"),
    (
        "× nginx",
        "the row above as a multiple of nginx's in the same round; below 1 is less than nginx, which is better except for opened/s",
    ),
];
const LEGEND_OF_SERVICES: &[(&str, &str)] = &[
    ("+ kernel", "of a service: kernel objects and socket buffers charged to its containers, per stream"),
    ("cgroup", "all that is charged to them but page cache, per stream"),
    ("memory", "of a service: the first round's, since it runs on and uses again what it has"),
];
/// Where the column of containers stands, when services were measured.
const CGROUP_AT: usize = 4;
const NOTHING: &str = "–";

/// Writes it.
///
/// # Errors
/// What the stream says.
pub fn write_table(out: &mut dyn Write, report: &CompareReport) -> io::Result<()> {
    let mut rows: Vec<(String, Vec<String>)> = vec![(String::new(), COLUMNS.iter().map(ToString::to_string).collect())];
    for target in &report.targets {
        rows.push((target.name.to_string(), values(target)));
        if let Some(ratios) = ratios(target) {
            rows.push(("  × nginx".to_owned(), ratios));
        }
    }
    let has_services = !report.services.is_empty();
    if has_services {
        rows[0].1.insert(CGROUP_AT, "cgroup".to_owned());
        let mut targets = report.targets.iter();
        for (name, cells) in rows.iter_mut().skip(1) {
            let charged = if name.starts_with(' ') { None } else { targets.next() };
            cells.insert(
                CGROUP_AT,
                charged.map(|target| size(target.memory.cgroup_bytes_per_stream)).unwrap_or_default(),
            );
        }
    }
    let widths: Vec<usize> = (0..rows[0].1.len())
        .map(|column| rows.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or(0))
        .collect();
    for (name, cells) in rows {
        write!(out, "{name:<16}")?;
        for (cell, width) in cells.iter().zip(&widths) {
            write!(out, "  {cell:>width$}")?;
        }
        writeln!(out)?;
    }
    let conditions = &report.conditions;
    let versions: Vec<&str> = report.versions.values().map(String::as_str).collect();
    writeln!(out)?;
    for (column, meaning) in LEGEND {
        writeln!(out, "{column:<14}  {meaning}")?;
    }
    if has_services {
        for (column, meaning) in LEGEND_OF_SERVICES {
            writeln!(out, "{column:<14}  {meaning}")?;
        }
    }
    writeln!(out)?;
    if let Some(client_protocol) = conditions.client_protocol() {
        writeln!(
            out,
            "clients speak {client_protocol}; direct is not among the targets, since the origin speaks HTTP/1.1 alone"
        )?;
    }
    writeln!(
        out,
        "sse-loadgen {} on {}, {} cores, {} descriptors{}{}",
        conditions.sse_loadgen,
        conditions.kernel,
        conditions.cores,
        conditions.descriptor_limit,
        if versions.is_empty() { "" } else { "; " },
        versions.join(", "),
    )
}

fn values(target: &TargetReport) -> Vec<String> {
    let time = |value: Option<u64>| value.map_or_else(|| NOTHING.to_owned(), time_us);
    let (latency, integrity) = (target.latency_us, target.integrity);
    // As in the report's own sums: of a service, whose machine is not read, the first round.
    let runs_on = target.rounds.first().is_some_and(|round| round.user_bytes.is_some() && round.kernel_bytes.is_none());
    let memory_rounds = if runs_on { &target.rounds[..1] } else { &target.rounds[..] };
    vec![
        target.streams_held.to_string(),
        size(target.memory.user_bytes_per_stream),
        size(median(memory_rounds.iter().filter_map(|round| round.user_bytes_per_stream_in_traffic))),
        size(target.memory.kernel_bytes_per_stream),
        size(target.memory.idle_bytes.map(|bytes| bytes as f64)),
        cost(target.opening.cpu_us_per_stream),
        target.opening.per_second.map_or_else(|| NOTHING.to_owned(), |streams| format!("{streams:.0}")),
        cost(target.cpu_us_per_event),
        time(latency.p50),
        time(latency.p99),
        time(latency.p999),
        time(latency.max),
        time(target.ttfb_us.p99),
        time(target.ttfb_from_due_us.p99),
        target.heartbeats.to_string(),
        format!("{}/{}/{}/{}", integrity.lost, integrity.duplicated, integrity.torn, integrity.corrupted),
    ]
}

fn cost(us: Option<f64>) -> String {
    us.map_or_else(|| NOTHING.to_owned(), |us| format!("{us:.1}µs"))
}

fn size(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), bytes)
}

fn ratios(target: &TargetReport) -> Option<Vec<String>> {
    let ratio = target.ratio_to_nginx;
    let text = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
    ratio.p50?;
    let mut cells = vec![String::new(); COLUMNS.len()];
    cells[1] = text(ratio.memory);
    cells[6] = text(ratio.opening);
    cells[7] = text(ratio.cpu);
    cells[8] = text(ratio.p50);
    cells[9] = text(ratio.p99);
    Some(cells)
}
