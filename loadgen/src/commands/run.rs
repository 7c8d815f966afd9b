//! `sse-loadgen run`: opens streams, holds them, measures, and reports.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::conclude::{Outputs, conclude};
use super::request::RequestTemplate;
use super::signals::Interrupt;
use crate::cli::RunArgs;
use crate::client::tls::Trust;
use crate::error::{CommandError, Outcome};
use crate::fleet::{Fleet, Placement};
use crate::limits;
use crate::plan::{self, Ramp};
use crate::protocol::Protocol;
use crate::record::Record;
use crate::report::conditions::Conditions;
use crate::report::progress::{Progress, Terminal};
use crate::report::run::{RUN, RunReport, summaries};
use crate::report::threshold::Threshold;
use crate::report::{self, units};
use crate::url::{Scheme, Url};
use crate::validity::{self, Evidence};
use crate::worker::{Command, Destination, Job, Prepared, Snapshot};

/// What a run is made of, checked.
#[derive(Debug)]
struct Plan {
    urls: Vec<Url>,
    job: Job,
    ramp: Ramp,
    thresholds: Vec<Threshold>,
    placement: Placement,
    descriptor_limit: u64,
}

/// What came of it.
struct Measured {
    record: Record,
    seconds: f64,
    worker_cpu_share: Option<f64>,
    interrupted: bool,
}

/// Runs the load and shows the result.
///
/// # Errors
/// Whatever prevents a result.
pub async fn run(args: &RunArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let plan = check(args)?;
    let Job { protocol, streams_per_connection, .. } = plan.job;
    let conditions = Conditions::read(plan.descriptor_limit).of_load(protocol, streams_per_connection);
    let measured = measure(args, &plan, terminal).await?;
    let record = &measured.record;
    let clean_ends = record.ends.get("clean_end").copied().unwrap_or(0);
    let evidence = Evidence {
        wanted: if measured.interrupted { record.counts.attempted } else { args.connections },
        held: record.counts.open + clean_ends,
        worker_cpu_share: measured.worker_cpu_share,
        machine_cpu_share: None,
    };
    let warnings = validity::judge(record, evidence);
    let report = RunReport {
        kind: RUN.to_owned(),
        version: report::SCHEMA_VERSION,
        run_id: super::random_id(),
        conditions,
        urls: plan.urls.iter().map(ToString::to_string).collect(),
        connections: args.connections,
        seconds: measured.seconds,
        interrupted: measured.interrupted,
        valid: !warnings.iter().any(|warning| warning.invalidates),
        counts: record.counts,
        integrity: record.integrity,
        ends: record.ends.clone(),
        stalled: record.stalled,
        worker_cpu_share: measured.worker_cpu_share,
        distributions: summaries(record),
        warnings,
        parts: Vec::new(),
    };
    let wanted = Outputs { json: args.json.as_deref(), hgrm: args.hgrm.as_deref(), thresholds: &plan.thresholds };
    let outcome = conclude(&report, record, &wanted, terminal)?;
    Ok(if measured.interrupted { Outcome::Interrupted } else { outcome })
}

fn check(args: &RunArgs) -> Result<Plan, CommandError> {
    let urls = args.urls.iter().map(|url| url.parse()).collect::<Result<Vec<Url>, _>>()?;
    let ramp: Ramp = args.ramp.parse()?;
    let sources = args.source.as_deref().map(plan::parse_sources).transpose()?.unwrap_or_default();
    let thresholds = args.fail_if.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let template = RequestTemplate::new(args.method.as_deref(), &args.headers, args.body.as_deref())?;
    let protocol = protocol(args, &urls)?;
    let streams_per_connection = protocol.streams_per_connection(args.streams_per_connection);
    let resolve = |url: &Url| {
        let server_name = url.host().to_owned();
        Ok(Destination { addresses: url.resolve()?, server_name, request: template.request(url) })
    };
    let destinations = urls.iter().map(resolve).collect::<Result<Vec<_>, CommandError>>()?;
    let reaches = |source: &IpAddr, to: &Destination| to.addresses.iter().any(|to| to.is_ipv4() == source.is_ipv4());
    if let Some(source) = sources.iter().find(|source| !destinations.iter().all(|to| reaches(source, to))) {
        return Err(CommandError::Usage(format!("--source {source}: a URL has no address of this address family")));
    }
    let descriptor_limit = limits::raise_descriptor_limit();
    let connections = plan::connections(args.connections, args.processes, streams_per_connection);
    limits::check_descriptors(connections, args.processes, descriptor_limit)?;
    let mut addresses: Vec<_> = destinations.iter().map(|destination| destination.addresses[0]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    limits::check_ports(connections, sources.len() as u64, addresses.len() as u64, limits::ephemeral_ports())?;
    let placement = match args.processes {
        1 => Placement::Thread,
        count => Placement::Processes { program: std::env::current_exe()?, count },
    };
    let job = Job {
        destinations,
        sources,
        protocol,
        streams_per_connection,
        trust: trust(args),
        connect_timeout: args.connect_timeout,
        head_timeout: args.head_timeout,
        in_flight: args.in_flight,
        already: template.already(),
        worker: 0,
        workers: 1,
    };
    // Before anything starts: workers cannot report such an error.
    Prepared::new(&job)?;
    Ok(Plan { urls, job, ramp, thresholds, placement, descriptor_limit })
}

/// What all URLs speak: a result is of one protocol.
fn protocol(args: &RunArgs, urls: &[Url]) -> Result<Protocol, CommandError> {
    let is_https = |url: &Url| url.scheme == Scheme::Https;
    match urls.iter().filter(|url| is_https(url)).count() {
        0 => Ok(Protocol::of(false, args.http2)),
        count if count == urls.len() => Ok(Protocol::of(true, args.http2)),
        _ => Err(CommandError::Usage(
            "cannot mix http and https URLs in one run: run them one after the other".to_owned(),
        )),
    }
}

fn trust(args: &RunArgs) -> Trust {
    match &args.cacert {
        _ if args.insecure => Trust::Any,
        Some(path) => Trust::File(path.clone()),
        None => Trust::System,
    }
}

/// Drives the workers until the time is over, all streams have ended, or someone interrupts.
async fn measure(args: &RunArgs, plan: &Plan, terminal: &mut Terminal) -> Result<Measured, CommandError> {
    let mut interrupt = Interrupt::catch()?;
    let mut progress = Progress::new(terminal);
    let mut fleet = Fleet::start(&plan.job, &plan.placement)?;
    let start = Instant::now();
    fleet.send(Command::Open { from: 0, to: args.connections, ramp: plan.ramp });
    let mut ramped: Option<(Instant, Vec<Snapshot>)> = None;
    let mut interrupted = false;
    loop {
        let deadline = ramped.as_ref().map(|(at, _)| *at + args.duration);
        tokio::select! {
            report = fleet.progress() => report?,
            () = interrupt.wait() => {
                interrupted = true;
                break;
            }
            () = sleep_until(deadline.unwrap_or(start)), if deadline.is_some() => break,
        }
        let counts = fleet.counts();
        let settled = counts.open + fleet.ended();
        if ramped.is_none() && settled >= args.connections {
            ramped = Some((Instant::now(), fleet.snapshots().to_vec()));
        }
        if fleet.ended() >= args.connections {
            break;
        }
        progress.update(|| progress_line(start.elapsed(), &fleet, args.connections));
    }
    let seconds = start.elapsed().as_secs_f64();
    let worker_cpu_share = ramped.and_then(|(_, before)| busiest_share(&before, fleet.snapshots()));
    let record = fleet.finish(None).await?;
    Ok(Measured { record, seconds, worker_cpu_share, interrupted })
}

/// The CPU share of the worker that used most between two sets of snapshots; `None` when they are too close together.
#[must_use]
pub fn busiest_share(before: &[Snapshot], after: &[Snapshot]) -> Option<f64> {
    let shares = before.iter().zip(after).filter(|(before, after)| after.at_us > before.at_us + 500_000);
    let shares =
        shares.map(|(before, after)| (after.cpu_us - before.cpu_us) as f64 / (after.at_us - before.at_us) as f64);
    shares.reduce(f64::max)
}

fn progress_line(elapsed: Duration, fleet: &Fleet, wanted: u64) -> String {
    let counts = fleet.counts();
    format!(
        "{:.0}s: {} of {wanted} streams open, {} ended, {} events, {}",
        elapsed.as_secs_f64(),
        counts.open,
        fleet.ended(),
        counts.events,
        units::bytes(counts.bytes as f64),
    )
}
