//! Options of `bench`.

use std::path::PathBuf;

use clap::Args;

use super::compare::ProgramArgs;
use super::exit_codes::EXIT_CODES;

const BENCH_HELP: &str = "Examples:
  sse-loadgen bench
  sse-loadgen bench --suites staggered,knee
  sse-loadgen bench --quick --json bench.json --markdown bench.md

Runs a list of `compare` and `knee` command lines one after the other, each target in turn and round after round, and writes
what came of them into one JSON document and one page, with the command lines, so that each can be repeated alone. HAProxy is
measured where it is installed. The page is also printed; after Ctrl-C it is only printed.";

/// Options of `bench`.
#[derive(Debug, Args)]
#[command(after_help = format!("{BENCH_HELP}\n\n{EXIT_CODES}"))]
pub struct BenchArgs {
    /// Run every suite briefly, in two minutes, to check that it works; the figures mean nothing
    #[arg(long)]
    pub quick: bool,
    /// Run only these suites: staggered, broadcast, opening, knee, scale-out, churn, stalled, tls, h2, h2c
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub suites: Vec<String>,
    /// Targets; suites leave out those that they do not support
    #[arg(long, value_delimiter = ',', default_value = "direct,nginx,haproxy,sse-proxy,nginx+sse-proxy")]
    pub targets: Vec<String>,
    /// How often every target is measured in each suite [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: Option<u64>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", default_value = "target/report/bench.json")]
    pub json: PathBuf,
    /// Write the page [default: docs/benchmarks.md, with --quick target/report/benchmarks.md]
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Directory of criterion's estimates, for a table of them
    #[arg(long, value_name = "DIRECTORY")]
    pub criterion: Option<PathBuf>,
    /// What is started.
    #[command(flatten)]
    pub programs: ProgramArgs,
}
