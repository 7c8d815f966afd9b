//! The `sse-loadgen` binary: parses, runs, prints, exits. All else is in the library.

use std::io::{BufReader, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use sse_loadgen::cli::{Cli, Command};
use sse_loadgen::commands::{bench, compare, gauge, knee, merge, origin, report, run};
use sse_loadgen::error::{CommandError, Outcome};
use sse_loadgen::report::progress::Terminal;
use sse_loadgen::{target, worker};

const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match execute(&cli) {
        Ok(outcome) => outcome.exit_code().into(),
        Err(error) => {
            let code = error.downcast_ref::<CommandError>().map_or(EXIT_FAILURE, CommandError::exit_code);
            let _ = writeln!(std::io::stderr(), "sse-loadgen: {error:#}");
            code.into()
        }
    }
}

fn execute(cli: &Cli) -> anyhow::Result<Outcome> {
    match &cli.command {
        Command::Worker => {
            target::parent_death::end_with_parent(false).context("cannot follow the parent process")?;
            worker::serve(BufReader::new(std::io::stdin()), std::io::stdout().lock()).map_err(CommandError::from)?;
            return Ok(Outcome::Good);
        }
        Command::ExecWithParent(args) => return Err(target::parent_death::run(&args.program, args.sigterm).into()),
        _ => {}
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let is_interactive = std::io::stderr().is_terminal();
    let has_colour = is_interactive && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut terminal =
        Terminal { out: Box::new(std::io::stdout()), err: Box::new(std::io::stderr()), is_interactive, has_colour };
    let outcome = match &cli.command {
        Command::Run(args) => runtime.block_on(run::run(args, &mut terminal)),
        Command::Compare(args) => runtime.block_on(compare::run(args, &mut terminal)),
        Command::Knee(args) => runtime.block_on(knee::run(args, &mut terminal)),
        Command::Bench(args) => runtime.block_on(bench::run(args, &mut terminal)),
        Command::Origin(args) => runtime.block_on(origin::run(args, &mut *terminal.out)),
        Command::Merge(args) => merge::run(args, &mut terminal),
        Command::Report(args) => report::run(args, &mut terminal),
        Command::Gauge(args) => runtime.block_on(gauge::run(args, &mut *terminal.out)),
        Command::Worker | Command::ExecWithParent(_) => return Ok(Outcome::Good),
    };
    // What is left to close is closed by the system.
    runtime.shutdown_background();
    Ok(outcome?)
}
