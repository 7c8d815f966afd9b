//! `sse-loadgen knee`: rate after rate on every target in turn, until each has found one that it does not carry.

use std::time::Duration;

use super::signals::Interrupt;
use super::turn::{Load, Source, Turn, find_targets, programs, started};
use crate::cli::KneeArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::protocol::Spoken;
use crate::report::conditions::Conditions;
use crate::report::knee::{KneeReport, KneeRound, KneeStep};
use crate::report::knee_table::write_table;
use crate::report::progress::{Progress, Terminal};
use crate::report::run::write_warnings;
use crate::target::{OriginSetup, Target};

/// How long beyond its plan a ramp may take, and events may be on their way: what comes later was not carried.
const PATIENCE: Duration = Duration::from_secs(2);
/// Heartbeats would only disturb: streams are never silent here.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// What a step takes beside its traffic, roughly.
const STEP_OVERHEAD_SECONDS: f64 = 3.0;

/// What a search is made of, checked.
pub(super) struct Plan {
    targets: Vec<Target>,
    source: Source,
    descriptor_limit: u64,
}

/// Searches, and shows what came of it; also after Ctrl-C, from the rates that were tried by then.
///
/// # Errors
/// Anything that leaves nothing to show.
pub async fn run(args: &KneeArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let report = measure(args, &mut Interrupt::catch()?, terminal, "").await?;
    write_table(&mut *terminal.out, &report)?;
    terminal.out.flush()?;
    write_warnings(&mut *terminal.err, &report.warnings, terminal.has_colour)?;
    if let Some(path) = &args.json {
        super::write_json(path, &report)?;
    }
    Ok(super::outcome(report.interrupted, report.valid))
}

/// Searches; what is under way is told with `prefix` before it.
pub(super) async fn measure(
    args: &KneeArgs,
    interrupt: &mut Interrupt,
    terminal: &mut Terminal,
    prefix: &str,
) -> Result<KneeReport, CommandError> {
    let plan = check(args)?;
    let conditions = Conditions::read(plan.descriptor_limit);
    let versions = match &plan.source {
        Source::Start(stack) => programs::versions(&plan.targets, &stack.programs),
        Source::Attach { .. } => Default::default(),
    };
    let limit_us = args.limit.as_micros() as u64;
    let mut found: Vec<(Target, Vec<KneeRound>)> = plan.targets.iter().map(|target| (*target, Vec::new())).collect();
    let mut progress = Progress::new(terminal);
    let each = args.duration.as_secs_f64() + STEP_OVERHEAD_SECONDS;
    progress.say(&format!(
        "{prefix}about {each:.0}s for each rate, {} targets and {} rounds",
        plan.targets.len(),
        args.rounds
    ));
    let mut interrupted = false;
    'rounds: for round in 1..=args.rounds {
        found.iter_mut().for_each(|(_, rounds)| rounds.push(KneeRound::default()));
        // Each takes one step after the other, until none has one left.
        let mut is_climbing = true;
        while std::mem::take(&mut is_climbing) {
            for (target, rounds) in &mut found {
                let Some(current) = rounds.last_mut() else { continue };
                let Some(rate) = current.next_rate(args.from as f64, args.factor, args.to as f64, args.refine) else {
                    continue;
                };
                is_climbing = true;
                let load = load(args, rate);
                let turn = Turn { target: *target, source: &plan.source, load: &load };
                let label = format!("{prefix}round {round}/{}, {rate:.0} events/s, {target}", args.rounds);
                tokio::select! {
                    figures = turn.step(&mut progress, &label) => {
                        current.steps.push(KneeStep::of(rate, &figures?, limit_us));
                    }
                    () = interrupt.wait() => {
                        interrupted = true;
                        break 'rounds;
                    }
                }
            }
        }
    }
    Ok(KneeReport::new(conditions, versions, (args.streams, limit_us), interrupted, found))
}

/// Checks the command line, and that programs and machine are fit for it.
pub(super) fn check(args: &KneeArgs) -> Result<Plan, CommandError> {
    let usage = |text: &str| Err(CommandError::Usage(text.to_owned()));
    let targets = find_targets(&args.targets)?;
    if args.to < args.from {
        return usage("--to has to be at least --from: rates go from one to the other");
    }
    if !(args.factor.is_finite() && args.factor >= 1.01) {
        return usage("--factor has to be at least 1.01: each rate is so many times the one before");
    }
    if load(args, args.from as f64).interval > args.duration {
        return usage(
            "--duration is too short for one event per stream at the lowest rate: use fewer --streams, a higher --from, or a longer --duration",
        );
    }
    let descriptor_limit = limits::raise_descriptor_limit();
    let source = started(&args.stack, &targets, args.streams, Spoken::default(), HEARTBEAT, descriptor_limit)?;
    Ok(Plan { targets, source, descriptor_limit })
}

fn load(args: &KneeArgs, rate: f64) -> Load {
    let interval = Duration::from_secs_f64(args.streams as f64 / rate).max(Duration::from_micros(1));
    Load {
        low: 0,
        streams: args.streams,
        spoken: Spoken::default(),
        ramp_per_second: 0,
        settle: Duration::ZERO,
        hold: Duration::ZERO,
        expects_heartbeats: false,
        interval,
        events: (args.duration.as_micros() / interval.as_micros()).max(1) as u64,
        size: args.size,
        schedule: "staggered".to_owned(),
        processes: args.stack.processes,
        origins: OriginSetup {
            streams: args.streams,
            processes: args.stack.origins,
            threads: args.stack.origin_threads,
        },
        churn: 0,
        stalled: 0,
        patience: PATIENCE,
    }
}
