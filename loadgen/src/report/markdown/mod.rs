//! The page about a benchmark: conditions, tables, how each figure is obtained, and every warning.

mod compare;
mod knee;
mod table;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use self::table::{NOTHING, Table};
use super::bench::{BenchReport, Suite, SuiteReport, SuiteResult};
use super::micro::Micro;
use super::units::bytes;

/// Renders it. The same report gives the same page.
#[must_use]
pub fn page(report: &BenchReport) -> String {
    let mut page = "# Benchmarks\n\n".to_owned();
    page.push_str(
        "Written by `make bench` (`sse-loadgen bench`), which writes it anew each time: not by hand. nginx runs with \
         [nginx/baseline.conf](../nginx/baseline.conf), HAProxy with [haproxy/baseline.cfg](../haproxy/baseline.cfg).\n\n",
    );
    if report.quick {
        page.push_str("> **A quick run, to see that it works: the figures say nothing.**\n\n");
    }
    if report.interrupted {
        page.push_str("> **Interrupted: what is missing was not measured.**\n\n");
    }
    if !report.valid {
        let doubted = report.suites.iter().filter(|suite| !is_valid(suite));
        let mut names: Vec<&str> = doubted.map(|suite| suite.name.name()).collect();
        names.dedup();
        page.push_str(&format!("> **Not valid: {}. The warnings there say why.**\n\n", names.join(", ")));
    }
    page.push_str(READING);
    page.push_str(&conditions(report));
    let mut before = None;
    for suite in &report.suites {
        if before.replace(suite.name) != Some(suite.name) {
            let (title, about) = about(suite.name);
            page.push_str(&format!("## {title}\n\n{about}\n\n"));
        }
        page.push_str(&measured(suite));
    }
    page.push_str(&micro(&report.micro));
    page.push_str(HOW);
    page
}

const READING: &str = "\
*× nginx* is a multiple of nginx's figure in the same round: the median of the rounds, and in parentheses the least and the
most. Below 1 is less than nginx, which is better, but for *opened per second* and *events per second*, where more is better.
Clients and origin share the machine with what is measured, so that times and speeds are those of this machine; the multiples
are what to compare. `direct` is the clients on the origin without anything between: no target can be faster.

";

const HOW: &str = "\
## How each figure is obtained

| | |
|---|---|
| memory/stream | PSS of all the target's processes (`/proc/PID/smaps_rollup`) with all streams silent, less that with a fifth of them, per stream between; median of the rounds |
| all-in | PSS while events flow, less PSS before the first connection, per stream: one-time costs and what opening leaves behind included |
| + kernel | socket objects and TCP buffers of the machine (`/proc/slabinfo`, `/proc/net/sockstat`), as the same slope, less that of `direct` |
| idle | PSS before the first connection |
| CPU/event | user and system time of the target's processes while events flow, divided by the events delivered |
| p50, p99, p99.9 | from when an event was due at the origin until a client had read it, whatever held it up |
| heartbeats | comments that came while the streams were silent |
| faults | events lost/duplicated/torn/corrupted, by a number and a checksum in each |
| opened per second | streams whose response head has come, by the clock, with 256 opening at once |
| CPU/stream opened | user and system time of the target's processes meanwhile, divided by the streams opened |
| first byte | from the request sent to the first byte of the response; *from due*: to the same byte from when the ramp had the stream due, which as fast as 256 at once allow is the beginning |
| PSS right after | when the last stream had been opened; *all streams closed*: two seconds after all clients had gone |
| events per second | the highest rate tried at which every event came and the median latency stayed below the limit |
| churn | PSS with no stream open, after each tenth of the streams had been opened and closed again |
| stalled | growth of the PSS, and of the machine's kernel memory (clients and origin included: `direct` has nothing else), five seconds after the last of the streams was opened, divided by them; clients receive into 4 KiB, in segments as over Ethernet |
| per byte | median of criterion's samples, divided by the bytes of one iteration |
";

fn conditions(report: &BenchReport) -> String {
    let conditions = &report.conditions;
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_micros(conditions.started_us));
    let mut table = Table::new(&["conditions", ""]);
    let memory = conditions.memory_bytes.map_or_else(|| NOTHING.to_owned(), |memory| bytes(memory as f64));
    let unknown = || "unknown".to_owned();
    let mut rows = vec![
        ("date", date.to_string()),
        ("commit", conditions.commit.clone().unwrap_or_else(unknown)),
        ("command", format!("`{}`", command_name(&conditions.command))),
        ("kernel", format!("{}, {}", conditions.kernel, conditions.machine)),
        ("processor", format!("{}, {} cores", conditions.cpu.clone().unwrap_or_else(unknown), conditions.cores)),
        ("memory", memory),
        ("open files per process", conditions.descriptor_limit.to_string()),
        ("ports per source and destination", conditions.ephemeral_ports.to_string()),
        ("sse-loadgen", conditions.sse_loadgen.clone()),
    ];
    let versions = versions(report);
    rows.extend(versions.iter().map(|(name, version)| (name.as_str(), version.clone())));
    rows.extend(report.left_out.iter().map(|line| ("left out", line.clone())));
    for (name, value) in rows {
        table.row(name, [value]);
    }
    table.text().replace("|---|---:|", "|---|---|")
}

/// The command line, without the directory the program was in.
fn command_name(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let program = program.rsplit('/').next().unwrap_or(program);
    format!("{program} {arguments}").trim_end().to_owned()
}

fn versions(report: &BenchReport) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for result in report.suites.iter().filter_map(|suite| suite.result.as_ref()) {
        versions.extend(match result {
            SuiteResult::Compare(report) => report.versions.clone(),
            SuiteResult::Knee(report) => report.versions.clone(),
        });
    }
    versions
}

fn is_valid(suite: &SuiteReport) -> bool {
    suite.result.as_ref().is_some_and(SuiteResult::is_valid)
}

fn measured(suite: &SuiteReport) -> String {
    let mut text = format!("```console\n$ {}\n```\n\n", suite.command);
    if let Some(error) = &suite.error {
        text.push_str(&format!("> **Failed:** {}\n\n", error.replace('\n', " ")));
    }
    let Some(result) = &suite.result else { return text };
    if !result.is_valid() {
        text.push_str(
            "> **Not valid**: what is measured here cannot be trusted as it stands; the warnings say why.\n\n",
        );
    }
    text.push_str(&match result {
        SuiteResult::Compare(report) => compare::tables(suite.name, report),
        SuiteResult::Knee(report) => knee::tables(report),
    });
    for warning in result.warnings() {
        let kind = if warning.invalidates { "Not valid" } else { "Warning" };
        text.push_str(&format!("- {kind}: {}\n  (remedy: {})\n", warning.cause, warning.remedy));
    }
    if !result.warnings().is_empty() {
        text.push('\n');
    }
    text
}

fn about(suite: Suite) -> (&'static str, &'static str) {
    match suite {
        Suite::Staggered => (
            "An even flow of events",
            "Memory with all streams silent and under traffic, CPU and latency when each stream has a phase of its own.",
        ),
        Suite::Broadcast => ("All streams at once", "The same when every stream has its event due at the same moment."),
        Suite::Opening => ("Opening streams", "As fast as 256 connections opening at once allow."),
        Suite::Knee => (
            "How many events per second",
            "Rates rise on every target in turn until the median latency is too high. The clients and the origin take their \
             share of the machine: where `direct` stops is where they do.",
        ),
        Suite::ScaleOut => (
            "Many streams on several processes",
            "sse-proxy processes that share the port, as many nginx workers, and HAProxy in as few processes as hold the \
             descriptors; the figures are sums over all of them.",
        ),
        Suite::Churn => {
            ("Streams that come and go", "Memory with no stream open, while many are opened and closed in batches.")
        }
        Suite::Stalled => (
            "Clients that do not read",
            "Memory of streams that are flooded with events while their clients do not read.",
        ),
        Suite::Tls => (
            "Over TLS",
            "HTTP/1.1 with a connection for each stream, encrypted by nginx and by sse-proxy: what a browser without HTTP/2 does. \
             Every handshake is a whole one.",
        ),
        Suite::H2 => (
            "Over TLS and HTTP/2",
            "What browsers do: streams share encrypted connections, here 50 each. nginx keeps a response head until data follows \
             it, so that every stream begins with a `retry` field, here and in what follows.",
        ),
        Suite::H2c => (
            "Over HTTP/2 without TLS",
            "What HTTP/2 costs by itself, as behind a proxy that ends TLS: 50 streams on a connection, and then each on one of its \
             own.",
        ),
    }
}

fn micro(found: &[Micro]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["", "input, or bytes of data", "per iteration", "interval of confidence", "per byte"]);
    for micro in found {
        let per_byte =
            micro.bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("{:.3} ns", micro.nanoseconds / bytes as f64));
        table.row(
            &micro.group,
            [
                micro.parameter.clone().unwrap_or_else(|| NOTHING.to_owned()),
                format!("{:.1} ns", micro.nanoseconds),
                format!("{:.1}–{:.1} ns", micro.low, micro.high),
                per_byte.unwrap_or_else(|| NOTHING.to_owned()),
            ],
        );
    }
    format!(
        "## The core alone\n\nOne event, and one request and its response head, through the parts that decide, without sockets.\n\n```console\n$ cargo bench -p sse-proxy\n```\n\n{}",
        table.text()
    )
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
