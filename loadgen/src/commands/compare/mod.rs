//! `sse-loadgen compare`: measures every target under the same load, in rounds, and prints one table.

mod protocol;

use std::collections::BTreeMap;
use std::time::Duration;

use super::comparison::{Comparison, Measurement, outcome, show};
use super::signals::Interrupt;
use super::turn::{Load, Source, Turn, programs, started};
use crate::cli::CompareArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::protocol::ClientProtocol;
use crate::report::compare::CompareReport;
use crate::report::compare_table::write_table;
use crate::report::conditions::Conditions;
use crate::report::figures::Figures;
use crate::report::progress::{Progress, Terminal};
use crate::report::units::count;
use crate::target::{OriginSetup, Service, Target, TargetError};
use crate::url::Url;

/// How long beyond its plan a ramp may take, and events may be on their way.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a comparison is made of, checked.
pub(super) struct Plan {
    targets: Vec<Target>,
    source: Source,
    load: Load,
    descriptor_limit: u64,
}

/// Compares and prints the result; after Ctrl-C that of the turns completed so far.
///
/// # Errors
/// Whatever prevents a result.
pub async fn run(args: &CompareArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let report = measure(args, &mut Interrupt::catch()?, terminal, "").await?;
    show(&report, &report.warnings, args.json.as_deref(), terminal, |out| write_table(out, &report))?;
    Ok(outcome(report.interrupted, report.valid))
}

/// Compares; progress lines begin with `prefix`.
pub(super) async fn measure(
    args: &CompareArgs,
    interrupt: &mut Interrupt,
    terminal: &mut Terminal,
    prefix: &str,
) -> Result<CompareReport, CommandError> {
    let plan = check(args)?;
    let ClientProtocol { protocol, streams_per_connection } = plan.load.client_protocol;
    let conditions = Conditions::read(plan.descriptor_limit).of_load(protocol, streams_per_connection);
    let (mut versions, mut services) = (BTreeMap::new(), BTreeMap::new());
    match &plan.source {
        Source::Start(stack) => versions = programs::versions(&plan.targets, &stack.programs),
        Source::Attach { services: attached, .. } => {
            services.extend(attached.iter().map(|service| (service.target.to_string(), service.url.to_string())));
        }
    }
    let mut turns =
        Turns { load: &plan.load, figures: plan.targets.iter().map(|target| Figures::new(*target)).collect() };
    let mut progress = Progress::new(terminal);
    progress.say(&format!(
        "{prefix}about {} for {} of {}",
        plan.estimate(args),
        count(args.rounds, "round"),
        count(plan.targets.len() as u64, "target")
    ));
    let comparison = Comparison { targets: &plan.targets, source: &plan.source, rounds: args.rounds, prefix };
    let interrupted = comparison.run(&mut turns, interrupt, &mut progress).await?;
    let mut figures = turns.figures;
    figures.retain(|figures| !figures.rounds.is_empty());
    Ok(CompareReport::new(conditions, versions, services, args.streams, interrupted, &figures))
}

/// One turn of each target in each round, all under the same load.
struct Turns<'a> {
    load: &'a Load,
    figures: Vec<Figures>,
}

impl Measurement for Turns<'_> {
    fn next(&mut self, target: usize, round: u64) -> Option<(Load, String)> {
        let is_missing = (self.figures[target].rounds.len() as u64) < round;
        is_missing.then(|| (self.load.clone(), String::new()))
    }

    async fn take(
        &mut self,
        target: usize,
        turn: Turn<'_>,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<(), CommandError> {
        self.figures[target].rounds.push(turn.take(progress, label).await?);
        Ok(())
    }
}

/// Checks the command line, and that programs and machine are fit for it.
pub(super) fn check(args: &CompareArgs) -> Result<Plan, CommandError> {
    let usage = |text: &str| Err(CommandError::Usage(text.to_owned()));
    let services = args.services.iter().map(|text| text.parse()).collect::<Result<Vec<Service>, TargetError>>()?;
    let targets = match services.is_empty() {
        true => protocol::targets(args)?,
        false => services.iter().map(|service| service.target).collect(),
    };
    let client_protocol = protocol::client_protocol(args)?;
    let low = args.low.unwrap_or((args.streams / 5).max(1));
    if low >= args.streams || low == 0 {
        return usage("--low must be between 1 and --streams, because memory per stream is the slope between the two");
    }
    if args.interval.is_zero() || args.duration < args.interval {
        return usage("--duration must be at least one --interval, and --interval must be longer than 0");
    }
    if args.heartbeat <= args.interval {
        return usage(
            "--heartbeat must be longer than --interval, so that heartbeats are sent during the silence and not between events",
        );
    }
    let descriptor_limit = limits::raise_descriptor_limit();
    let source = match &args.origin {
        Some(origin) => attached(args, services, origin, descriptor_limit)?,
        None => started(&args.stack, &targets, args.streams, client_protocol, args.heartbeat, descriptor_limit)?,
    };
    let hold = args.hold.unwrap_or(args.heartbeat * 2 + Duration::from_secs(1));
    let load = Load {
        low,
        streams: args.streams,
        client_protocol,
        ramp_per_second: args.ramp_rate,
        settle: args.settle,
        hold,
        expects_heartbeats: hold > args.heartbeat,
        interval: args.interval,
        events: (args.duration.as_micros() / args.interval.as_micros()) as u64,
        size: args.size,
        schedule: args.schedule.clone(),
        processes: args.stack.processes,
        origins: OriginSetup {
            streams: args.streams,
            processes: args.stack.origins,
            threads: args.stack.origin_threads,
        },
        churn: args.churn,
        stalled: args.stalled,
        patience: PATIENCE,
    };
    Ok(Plan { targets, source, load, descriptor_limit })
}

/// Services that run already; what they hold is theirs to know.
fn attached(
    args: &CompareArgs,
    services: Vec<Service>,
    origin: &str,
    descriptor_limit: u64,
) -> Result<Source, CommandError> {
    limits::check_descriptors(args.streams, args.stack.processes, descriptor_limit)?;
    for (at, service) in services.iter().enumerate() {
        service.url.resolve()?;
        if services[..at].iter().any(|other| other.target == service.target) {
            return Err(CommandError::Usage(format!("--service: {} is given twice", service.target)));
        }
    }
    limits::check_ports(args.streams, 1, 1, limits::ephemeral_ports())?;
    let origin = origin.parse::<Url>()?.plain()?;
    origin.resolve()?;
    Ok(Source::Attach { services, origin })
}

impl Plan {
    fn estimate(&self, args: &CompareArgs) -> humantime::FormattedDuration {
        let turns = args.rounds * self.targets.len() as u64;
        humantime::format_duration(Duration::from_secs(turns * self.load.length().as_secs()))
    }
}
