//! `sse-loadgen knee`: raises the event rate on every target in turn until the target no longer carries it.

use std::time::Duration;

use super::comparison::{Comparison, Measurement, outcome, show};
use super::signals::Interrupt;
use super::turn::{Load, Source, Turn, find_targets, programs, started};
use crate::cli::KneeArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::protocol::ClientProtocol;
use crate::report::conditions::Conditions;
use crate::report::knee::{KneeReport, KneeRound, KneeStep};
use crate::report::knee_table::write_table;
use crate::report::progress::{Progress, Terminal};
use crate::report::units::count;
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

/// Searches and prints the result; after Ctrl-C that of the rates tried so far.
///
/// # Errors
/// Whatever prevents a result.
pub async fn run(args: &KneeArgs, terminal: &mut Terminal) -> Result<Outcome, CommandError> {
    let report = measure(args, &mut Interrupt::catch()?, terminal, "").await?;
    show(&report, &report.warnings, args.json.as_deref(), terminal, |out| write_table(out, &report))?;
    Ok(outcome(report.interrupted, report.valid))
}

/// Searches; progress lines begin with `prefix`.
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
    let mut steps = Steps { args, limit_us, rate: 0.0, rounds: vec![Vec::new(); plan.targets.len()] };
    let mut progress = Progress::new(terminal);
    let each = args.duration.as_secs_f64() + STEP_OVERHEAD_SECONDS;
    progress.say(&format!(
        "{prefix}about {each:.0}s for each rate, {} and {}",
        count(plan.targets.len() as u64, "target"),
        count(args.rounds, "round")
    ));
    let comparison = Comparison { targets: &plan.targets, source: &plan.source, rounds: args.rounds, prefix };
    let interrupted = comparison.run(&mut steps, interrupt, &mut progress).await?;
    let found = plan.targets.iter().copied().zip(steps.rounds).collect();
    Ok(KneeReport::new(conditions, versions, (args.streams, limit_us), interrupted, found))
}

/// One rate after the other on each target in turn, until none has one left.
struct Steps<'a> {
    args: &'a KneeArgs,
    limit_us: u64,
    /// The rate that is being tried.
    rate: f64,
    /// Of each target.
    rounds: Vec<Vec<KneeRound>>,
}

impl Measurement for Steps<'_> {
    fn next(&mut self, target: usize, round: u64) -> Option<(Load, String)> {
        let (args, rounds) = (self.args, &mut self.rounds[target]);
        if (rounds.len() as u64) < round {
            rounds.push(KneeRound::default());
        }
        self.rate = rounds.last()?.next_rate(args.from as f64, args.factor, args.to as f64, args.refine)?;
        Some((load(args, self.rate), format!("{:.0} events/s, ", self.rate)))
    }

    async fn take(
        &mut self,
        target: usize,
        turn: Turn<'_>,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<(), CommandError> {
        let figures = turn.step(progress, label).await?;
        let step = KneeStep::of(self.rate, &figures, self.limit_us);
        if let Some(round) = self.rounds[target].last_mut() {
            round.steps.push(step);
        }
        Ok(())
    }
}

/// Checks the command line, and that programs and machine are fit for it.
pub(super) fn check(args: &KneeArgs) -> Result<Plan, CommandError> {
    let usage = |text: &str| Err(CommandError::Usage(text.to_owned()));
    let targets = find_targets(&args.targets)?;
    if args.to < args.from {
        return usage("--to must be at least --from");
    }
    if !(args.factor.is_finite() && args.factor >= 1.01) {
        return usage("--factor must be at least 1.01");
    }
    if load(args, args.from as f64).interval > args.duration {
        return usage(
            "--duration is too short for one event per stream at the lowest rate: use fewer --streams, a higher --from, or a longer --duration",
        );
    }
    let descriptor_limit = limits::raise_descriptor_limit();
    let source = started(&args.stack, &targets, args.streams, ClientProtocol::default(), HEARTBEAT, descriptor_limit)?;
    Ok(Plan { targets, source, descriptor_limit })
}

fn load(args: &KneeArgs, rate: f64) -> Load {
    let interval = Duration::from_secs_f64(args.streams as f64 / rate).max(Duration::from_micros(1));
    Load {
        low: 0,
        streams: args.streams,
        client_protocol: ClientProtocol::default(),
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
