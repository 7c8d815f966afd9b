//! What `bench` measures: command lines of `compare` and `knee`, so that each can be repeated alone.

use clap::Parser as _;

use crate::cli::{BenchArgs, Cli, Command, CompareArgs, KneeArgs};
use crate::error::CommandError;
use crate::report::bench::Suite;
use crate::target::Target;

/// One suite or part of it, ready to be measured.
pub(super) struct Job {
    pub(super) suite: Suite,
    /// As it is typed.
    pub(super) command: String,
    pub(super) work: Work,
}

/// Which command it is.
pub(super) enum Work {
    Compare(Box<CompareArgs>),
    Knee(Box<KneeArgs>),
}

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    quick: bool,
    rounds: u64,
}

/// The suites that are wanted, on those of `targets` that each is about; a suite for none of them goes to `left_out`.
pub(super) fn jobs(args: &BenchArgs, targets: &[Target], left_out: &mut Vec<String>) -> Result<Vec<Job>, CommandError> {
    let size = Size { quick: args.quick, rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }) };
    let mut wanted = Vec::new();
    for name in &args.suites {
        let suite = Suite::ALL.into_iter().find(|suite| suite.name() == name);
        wanted.push(suite.ok_or_else(|| {
            let known: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
            CommandError::Usage(format!("--suites {name}: suites are {}", known.join(", ")))
        })?);
    }
    let mut jobs = Vec::new();
    for suite in Suite::ALL.into_iter().filter(|suite| wanted.is_empty() || wanted.contains(suite)) {
        let names: Vec<&str> =
            targets.iter().filter(|target| is_about(suite, **target)).map(|target| target.name()).collect();
        if names.is_empty() {
            left_out.push(format!("{suite}: about none of the targets"));
            continue;
        }
        for sharing in sharings(suite) {
            jobs.push(job(suite, size, args, &names.join(","), sharing)?);
        }
    }
    Ok(jobs)
}

fn is_about(suite: Suite, target: Target) -> bool {
    match target {
        Target::Direct => matches!(suite, Suite::Staggered | Suite::Broadcast | Suite::Knee | Suite::Stalled),
        // What stands in front is nginx: it has its own place in one suite, and would only repeat itself in the others.
        Target::NginxSseProxy => suite == Suite::Staggered,
        Target::Haproxy => !matches!(suite, Suite::Tls | Suite::H2 | Suite::H2c),
        Target::Nginx | Target::SseProxy => true,
    }
}

/// In what ways streams share connections, where they do: a suite is measured once for each.
fn sharings(suite: Suite) -> &'static [&'static str] {
    match suite {
        Suite::H2 => &[" --streams-per-connection 50"],
        Suite::H2c => &[" --streams-per-connection 50", " --streams-per-connection 1"],
        _ => &[""],
    }
}

fn job(suite: Suite, size: Size, args: &BenchArgs, targets: &str, sharing: &str) -> Result<Job, CommandError> {
    let (streams, load) = options(suite, size.quick);
    let name = if suite == Suite::Knee { "knee" } else { "compare" };
    let rounds = match suite {
        // One turn takes a minute; and what is read there hardly differs from round to round.
        Suite::ScaleOut | Suite::Churn | Suite::Stalled => 1,
        _ => size.rounds,
    };
    let protocol = match suite {
        Suite::Tls => " --protocol tls",
        Suite::H2 => " --protocol h2",
        Suite::H2c => " --protocol h2c",
        _ => "",
    };
    let command = format!("{name}{protocol}{sharing} --streams {streams} --rounds {rounds} --targets {targets} {load}");
    let words = std::iter::once("sse-loadgen").chain(command.split_whitespace());
    // These lines are this program's own: that they are understood is tested.
    let cli = Cli::try_parse_from(words).map_err(|error| CommandError::Usage(error.to_string()))?;
    let work = match cli.command {
        Command::Knee(mut knee) => {
            knee.stack.programs.clone_from(&args.programs);
            Work::Knee(knee)
        }
        Command::Compare(mut compare) => {
            compare.stack.programs.clone_from(&args.programs);
            Work::Compare(compare)
        }
        _ => return Err(CommandError::Usage(format!("{command}: not a measurement"))),
    };
    Ok(Job { suite, command: format!("sse-loadgen {command}"), work })
}

/// Streams, and everything else that makes the load.
fn options(suite: Suite, quick: bool) -> (u64, &'static str) {
    match (suite, quick) {
        (Suite::Staggered, false) => (5000, "--duration 10s --interval 1s --heartbeat 2s"),
        (Suite::Broadcast, false) => {
            (5000, "--duration 8s --interval 1s --heartbeat 2s --hold 1s --schedule broadcast")
        }
        (Suite::Opening, false) => (9000, "--low 1000 --ramp-rate max --hold 1s --duration 2s --interval 2s"),
        (Suite::Knee, false) => (1000, "--from 5000 --factor 1.5 --refine 2 --duration 2s --limit 1ms"),
        (Suite::ScaleOut, false) => (
            30_000,
            "--workers 4 --origins 2 --processes 2 --ramp-rate 3000 --duration 10s --interval 5s --heartbeat 6s",
        ),
        (Suite::Churn, false) => (1000, "--churn 100000 --ramp-rate max --hold 1s --duration 2s"),
        (Suite::Stalled, false) => (100, "--stalled 500 --hold 1s --duration 2s"),
        (Suite::Tls | Suite::H2 | Suite::H2c, false) => (3000, "--duration 5s --interval 1s --heartbeat 2s --hold 3s"),
        (Suite::Staggered, true) => (50, "--settle 100ms --duration 500ms --interval 100ms --heartbeat 200ms"),
        (Suite::Broadcast, true) => {
            (50, "--settle 100ms --duration 500ms --interval 100ms --heartbeat 200ms --hold 1s --schedule broadcast")
        }
        (Suite::Opening, true) => {
            (200, "--settle 100ms --ramp-rate max --duration 200ms --interval 100ms --heartbeat 200ms --hold 100ms")
        }
        (Suite::Knee, true) => (20, "--from 200 --factor 2 --to 400 --refine 0 --duration 300ms --limit 50ms"),
        (Suite::ScaleOut, true) => (
            100,
            "--workers 2 --origins 2 --processes 2 --settle 100ms --duration 200ms --interval 100ms --heartbeat 200ms --hold 100ms",
        ),
        (Suite::Stalled, true) => {
            (20, "--stalled 5 --settle 100ms --duration 200ms --interval 100ms --heartbeat 200ms --hold 100ms")
        }
        (Suite::Churn, true) => {
            (20, "--churn 200 --settle 100ms --duration 200ms --interval 100ms --heartbeat 200ms --hold 100ms")
        }
        (Suite::Tls | Suite::H2 | Suite::H2c, true) => {
            (100, "--settle 100ms --duration 200ms --interval 100ms --heartbeat 200ms --hold 300ms")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> BenchArgs {
        let cli = Cli::try_parse_from(["sse-loadgen", "bench"].iter().chain(words)).expect("valid");
        match cli.command {
            Command::Bench(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_suite_is_a_command_line_that_is_understood() {
        let targets = [Target::Direct, Target::Nginx, Target::NginxSseProxy, Target::SseProxy];
        for quick in [&[][..], &["--quick"]] {
            let mut left_out = Vec::new();
            let jobs = jobs(&args(quick), &targets, &mut left_out).expect("understood");
            let mut suites: Vec<Suite> = jobs.iter().map(|job| job.suite).collect();
            suites.dedup();
            assert_eq!((&suites[..], left_out.len()), (&Suite::ALL[..], 0));
            assert!(jobs.iter().all(|job| job.command.contains("nginx") && job.command.contains("sse-proxy")));
            assert!(jobs[0].command.contains("nginx+sse-proxy") && !jobs[1].command.contains("nginx+sse-proxy"));
        }
    }

    #[test]
    fn only_what_is_asked_for_is_measured() {
        let args = args(&["--suites", "knee,opening", "--rounds", "7"]);
        let jobs = jobs(&args, &[Target::Nginx], &mut Vec::new()).expect("understood");
        assert_eq!(jobs.iter().map(|job| job.suite.name()).collect::<Vec<_>>(), ["opening", "knee"]);
        assert!(jobs[0].command.contains("--rounds 7"), "{}", jobs[0].command);
    }

    #[test]
    fn a_suite_that_is_about_no_target_is_left_out() {
        let mut left_out = Vec::new();
        let jobs = jobs(&args(&["--suites", "knee,h2"]), &[Target::Direct], &mut left_out).expect("understood");
        assert_eq!(jobs.iter().map(|job| job.suite.name()).collect::<Vec<_>>(), ["knee"]);
        assert_eq!(left_out, ["h2: about none of the targets"]);
    }

    #[test]
    fn browsers_are_compared_on_nginx_and_the_proxy_alone() {
        let targets = [Target::Direct, Target::Nginx, Target::Haproxy, Target::SseProxy, Target::NginxSseProxy];
        let jobs = jobs(&args(&["--suites", "tls,h2,h2c"]), &targets, &mut Vec::new()).expect("understood");
        let commands: Vec<&str> = jobs.iter().filter_map(|job| job.command.split(" --streams ").next()).collect();
        assert_eq!(
            commands,
            [
                "sse-loadgen compare --protocol tls",
                "sse-loadgen compare --protocol h2 --streams-per-connection 50",
                "sse-loadgen compare --protocol h2c --streams-per-connection 50",
                "sse-loadgen compare --protocol h2c --streams-per-connection 1",
            ]
        );
        assert!(jobs.iter().all(|job| job.command.contains("--targets nginx,sse-proxy ")));
    }
}
