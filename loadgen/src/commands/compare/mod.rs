//! `sse-loadgen compare`: every target in turn, round after round, under the same load, and one table at the end.

mod programs;
mod protocol;
mod turn;

use std::collections::BTreeMap;
use std::time::Duration;

use self::turn::{Load, Source, Turn};
use super::signals::Interrupt;
use crate::cli::CompareArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::plan;
use crate::report::compare::{CompareReport, write_table};
use crate::report::conditions::Conditions;
use crate::report::figures::Figures;
use crate::report::progress::{Progress, Terminal};
use crate::report::run::write_warnings;
use crate::target::{Service, StackConfig, Target, TargetError, nginx};
use crate::url::Url;

/// What a comparison is made of, checked.
struct Plan {
    targets: Vec<Target>,
    source: Source,
    load: Load,
    descriptor_limit: u64,
}

/// Compares, and shows what came of it; also after Ctrl-C, from the turns that were over by then.
///
/// # Errors
/// Anything that leaves nothing to show.
pub async fn run(args: &CompareArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let plan = check(args)?;
    let mut interrupt = Interrupt::catch()?;
    let Load { protocol, streams_per_connection, .. } = plan.load;
    let conditions = Conditions::read(plan.descriptor_limit).of_load(protocol, streams_per_connection);
    let (mut versions, mut services) = (BTreeMap::new(), BTreeMap::new());
    match &plan.source {
        Source::Start(stack) => versions = programs::versions(&plan.targets, &stack.programs),
        Source::Attach { services: attached, .. } => {
            services.extend(attached.iter().map(|service| (service.target.to_string(), service.url.to_string())));
        }
    }
    let mut figures: Vec<Figures> = plan.targets.iter().map(|target| Figures::new(*target)).collect();
    let mut interrupted = false;
    {
        let mut progress = Progress::new(terminal);
        progress.say(&format!(
            "about {} for {} rounds of {} targets",
            plan.estimate(args),
            args.rounds,
            plan.targets.len()
        ));
        'rounds: for round in 1..=args.rounds {
            for figures in &mut figures {
                let turn = Turn { target: figures.target, source: &plan.source, load: &plan.load };
                let label = format!("round {round}/{}, {}", args.rounds, figures.target);
                tokio::select! {
                    measured = turn.take(&mut progress, &label) => figures.rounds.push(measured?),
                    () = interrupt.wait() => {
                        interrupted = true;
                        break 'rounds;
                    }
                }
            }
        }
    }
    figures.retain(|figures| !figures.rounds.is_empty());
    let report = CompareReport::new(conditions, versions, services, args.streams, interrupted, &figures);
    write_table(&mut *terminal.out, &report)?;
    terminal.out.flush()?;
    write_warnings(&mut *terminal.err, &report.warnings, terminal.has_colour)?;
    if let Some(path) = &args.json {
        super::write_json(path, &report)?;
    }
    Ok(match (interrupted, report.valid) {
        (true, _) => Outcome::Interrupted,
        (false, false) => Outcome::NotValid,
        (false, true) => Outcome::Good,
    })
}

fn check(args: &CompareArgs) -> Result<Plan, CommandError> {
    let usage = |text: &str| Err(CommandError::Usage(text.to_owned()));
    let services = args.services.iter().map(|text| text.parse()).collect::<Result<Vec<Service>, TargetError>>()?;
    let targets = match services.is_empty() {
        true => protocol::targets(args)?,
        false => services.iter().map(|service| service.target).collect(),
    };
    let (protocol, streams_per_connection) = protocol::spoken(args)?;
    let low = args.low.unwrap_or((args.streams / 5).max(1));
    if low >= args.streams || low == 0 {
        return usage("--low has to be between 1 and --streams: memory per stream is the slope between the two");
    }
    if args.interval.is_zero() || args.duration < args.interval {
        return usage("--duration has to be at least one --interval, and --interval more than nothing");
    }
    if args.heartbeat <= args.interval {
        return usage(
            "--heartbeat has to be longer than --interval, so that heartbeats come in the silence and not between events",
        );
    }
    let descriptor_limit = limits::raise_descriptor_limit();
    let connections = plan::connections(args.streams, args.processes, streams_per_connection);
    limits::check_descriptors(connections, args.processes, descriptor_limit)?;
    let source = match &args.origin {
        Some(origin) => attached(args, services, origin)?,
        None => started(args, &targets, streams_per_connection, descriptor_limit)?,
    };
    let load = Load {
        low,
        streams: args.streams,
        protocol,
        streams_per_connection,
        ramp_per_second: args.ramp_rate,
        // Two heartbeats and a little more: idle means that they have come and gone.
        hold: args.heartbeat * 2 + Duration::from_secs(1),
        interval: args.interval,
        events: (args.duration.as_micros() / args.interval.as_micros()) as u64,
        size: args.size,
        schedule: args.schedule.clone(),
        processes: args.processes,
        origin_threads: args.origin_threads,
    };
    Ok(Plan { targets, source, load, descriptor_limit })
}

/// Programs to start for each turn: found, and large enough.
fn started(
    args: &CompareArgs,
    targets: &[Target],
    streams_per_connection: u64,
    descriptor_limit: u64,
) -> Result<Source, CommandError> {
    let programs = programs::find(args, targets)?;
    limits::check_server("origin", args.streams, None, descriptor_limit)?;
    if targets.iter().any(|target| target.has_proxy()) {
        limits::check_server("sse-proxy", args.streams, Some(streams_per_connection), descriptor_limit)?;
    }
    for (target, config) in [(Target::Nginx, &args.nginx_conf), (Target::NginxSseProxy, &args.front_conf)] {
        if targets.contains(&target) {
            nginx::check_config(config, args.streams)?;
        }
    }
    Ok(Source::Start(StackConfig {
        programs,
        nginx_conf: args.nginx_conf.clone(),
        front_conf: args.front_conf.clone(),
        heartbeat: args.heartbeat,
        protocol: args.protocol,
        streams_per_connection,
    }))
}

/// Services that run already; what they hold is theirs to know.
fn attached(args: &CompareArgs, services: Vec<Service>, origin: &str) -> Result<Source, CommandError> {
    for (at, service) in services.iter().enumerate() {
        service.url.resolve()?;
        if services[..at].iter().any(|other| other.target == service.target) {
            return Err(CommandError::Usage(format!("--service: {} is there twice", service.target)));
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
