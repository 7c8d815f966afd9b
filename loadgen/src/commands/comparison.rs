//! Runs a comparison: round after round, one target after the other, until nothing is left to measure or it is interrupted.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::signals::Interrupt;
use super::turn::{Load, Source, Turn};
use super::write_json;
use crate::error::{CommandError, Outcome};
use crate::report::progress::{Progress, Terminal};
use crate::report::run::write_warnings;
use crate::target::Target;
use crate::validity::Warning;

/// What is measured of every target.
pub(super) trait Measurement {
    /// The next load for target number `target` in this round (from 1), and what to call it; none when the target is done.
    fn next(&mut self, target: usize, round: u64) -> Option<(Load, String)>;

    /// Measures target number `target` under that load and keeps the result. Dropping the future ends what it has started.
    async fn take(
        &mut self,
        target: usize,
        turn: Turn<'_>,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<(), CommandError>;
}

/// What is compared, and how often.
pub(super) struct Comparison<'a> {
    pub(super) targets: &'a [Target],
    pub(super) source: &'a Source,
    pub(super) rounds: u64,
    /// Stands before every line of progress.
    pub(super) prefix: &'a str,
}

impl Comparison<'_> {
    /// Measures; returns whether it was interrupted. What had been measured by then is kept.
    ///
    /// # Errors
    /// The first of a turn.
    pub(super) async fn run(
        &self,
        measurement: &mut impl Measurement,
        interrupt: &mut Interrupt,
        progress: &mut Progress<'_>,
    ) -> Result<bool, CommandError> {
        for round in 1..=self.rounds {
            let mut is_over = false;
            while !std::mem::replace(&mut is_over, true) {
                for (at, target) in self.targets.iter().enumerate() {
                    let Some((load, name)) = measurement.next(at, round) else { continue };
                    is_over = false;
                    let turn = Turn { target: *target, source: self.source, load: &load };
                    let label = format!("{}round {round}/{}, {name}{target}", self.prefix, self.rounds);
                    tokio::select! {
                        taken = measurement.take(at, turn, progress, &label) => taken?,
                        () = interrupt.wait() => return Ok(true),
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Prints the table and the warnings of a result, and writes it as JSON if requested.
pub(super) fn show(
    report: &impl Serialize,
    warnings: &[Warning],
    json: Option<&Path>,
    terminal: &mut Terminal,
    table: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), CommandError> {
    table(&mut *terminal.out)?;
    terminal.out.flush()?;
    write_warnings(&mut *terminal.err, warnings, terminal.has_colour)?;
    json.map_or(Ok(()), |path| write_json(path, report))
}

/// How it ended.
pub(super) fn outcome(interrupted: bool, valid: bool) -> Outcome {
    match (interrupted, valid) {
        (true, _) => Outcome::Interrupted,
        (false, false) => Outcome::NotValid,
        (false, true) => Outcome::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many turns per round as each target has, and what has been measured.
    struct Turns {
        each: Vec<usize>,
        taken: Vec<(u64, usize)>,
        load: Load,
    }

    impl Measurement for Turns {
        fn next(&mut self, target: usize, round: u64) -> Option<(Load, String)> {
            let own = self.taken.iter().filter(|turn| **turn == (round, target)).count();
            (own < self.each[target]).then(|| (self.load.clone(), format!("{own}, ")))
        }

        async fn take(
            &mut self,
            target: usize,
            turn: Turn<'_>,
            _: &mut Progress<'_>,
            label: &str,
        ) -> Result<(), CommandError> {
            let round = if label.contains("round 1/2") { 1 } else { 2 };
            assert!(label.starts_with("x: ") && label.ends_with(turn.target.name()), "{label}");
            self.taken.push((round, target));
            Ok(())
        }
    }

    #[tokio::test]
    async fn targets_take_turns_until_none_has_one_left_in_the_round() {
        let source = Source::Attach { services: Vec::new(), origin: "http://x".parse().expect("valid") };
        let mut terminal = Terminal {
            out: Box::new(std::io::sink()),
            err: Box::new(std::io::sink()),
            is_interactive: false,
            has_colour: false,
        };
        let mut progress = Progress::new(&mut terminal);
        let mut turns = Turns { each: vec![1, 3, 0], taken: Vec::new(), load: Load::default() };
        let targets = [Target::Direct, Target::Nginx, Target::Haproxy];
        let comparison = Comparison { targets: &targets, source: &source, rounds: 2, prefix: "x: " };
        let mut interrupt = Interrupt::catch().expect("a runtime");
        let interrupted = comparison.run(&mut turns, &mut interrupt, &mut progress).await.expect("all turns");
        assert!(!interrupted);
        let round = |round| [(round, 0), (round, 1), (round, 1), (round, 1)];
        assert_eq!(turns.taken, [round(1), round(2)].concat());
    }
}
