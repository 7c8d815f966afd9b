//! The table at the end of `knee`: a line per rate and target of the last round, and the knees.

use std::io::{self, Write};

use super::knee::KneeReport;
use super::units::time_us;

/// Writes it.
///
/// # Errors
/// What the stream says.
pub fn write_table(out: &mut dyn Write, report: &KneeReport) -> io::Result<()> {
    writeln!(
        out,
        "{:<16}  {:>8}  {:>8}  {:>8}  {:>9}  {:>7}  {:>7}",
        "", "events/s", "p50", "p99", "CPU/event", "machine", "client"
    )?;
    for target in &report.targets {
        for step in target.rounds.last().iter().flat_map(|round| &round.steps) {
            let time = |us: Option<u64>| us.map_or_else(|| "–".to_owned(), time_us);
            let share =
                |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0));
            writeln!(
                out,
                "{:<16}  {:>8.0}  {:>8}  {:>8}  {:>9}  {:>7}  {:>7}  {}",
                target.name.name(),
                step.rate,
                time(step.p50),
                time(step.p99),
                step.cpu_us_per_event.map_or_else(|| "–".to_owned(), |us| format!("{us:.1}µs")),
                share(Some(step.machine_cpu_share)),
                share(step.worker_cpu_share),
                step.reason.as_deref().unwrap_or_default(),
            )?;
        }
    }
    writeln!(out)?;
    for target in &report.targets {
        let knee = target.events_per_second.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
        let ratio = target
            .ratio_to_nginx
            .map(|ratio| format!("  × nginx {:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max));
        writeln!(out, "{:<16}  {knee:>8} events/s{}", target.name.name(), ratio.unwrap_or_default())?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "the highest rate tried at which all events came through {} streams and the median latency was below {};",
        report.streams,
        time_us(report.limit_us)
    )?;
    writeln!(
        out,
        "above are the rates of the last round. The clients and the origin share the machine: `direct` is where they stop"
    )
}
