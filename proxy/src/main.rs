//! The `sse-proxy` binary: arguments, configuration, run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary is the one place that prints")]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use sse_proxy::cli::{Cli, Command, Serve};
use sse_proxy::config::Config;
use sse_proxy::control::remote::{self, Target};
use sse_proxy::logging::ProcessLog;
use sse_proxy::server;

/// jemalloc returns the memory of a burst of opening streams, and packs tens of thousands of small allocations; see
/// `docs/decisions/0003-jemalloc-in-the-binary.md`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `EX_USAGE` of sysexits: the command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if wanted { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    match cli.command {
        Some(Command::CheckConfig { file, strict }) => check(&file, strict),
        Some(Command::Reload(target)) => reload(&target.into()),
        None => serve(&cli.serve),
    }
}

fn check(file: &Path, strict: bool) -> ExitCode {
    match server::read(file) {
        Ok((_, warnings)) => {
            for warning in &warnings {
                println!("{warning}");
            }
            if strict && !warnings.is_empty() {
                let count =
                    if warnings.len() == 1 { "1 warning".to_owned() } else { format!("{} warnings", warnings.len()) };
                eprintln!("sse-proxy: {}: {count}, and --strict allows none", file.display());
                return ExitCode::FAILURE;
            }
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sse-proxy: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn reload(target: &Target) -> ExitCode {
    match remote::reload(target) {
        Ok(outcome) => {
            print!("{outcome}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sse-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Serve) -> ExitCode {
    let checked = match &arguments.config {
        Some(file) => server::read(file).map(|(file, warnings)| (file.config, warnings)),
        None => {
            let upstream = arguments.upstream.as_deref().unwrap_or_default();
            Config::for_upstream(upstream, &arguments.listen, arguments.admin.as_deref())
                .map(|config| (config, Vec::new()))
        }
    };
    let (config, warnings) = match checked {
        Ok(checked) => checked,
        Err(message) => {
            eprintln!("sse-proxy: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log = match ProcessLog::start(arguments.log_level) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("sse-proxy: cannot log on standard error: {error}");
            return ExitCode::FAILURE;
        }
    };
    for (number, warning) in (1..).zip(warnings) {
        log::warn!("configuration: warning={number}: {warning}");
    }
    let code = match server::run(&config, arguments.config.as_deref(), &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.print(&format!("sse-proxy: {error}"));
            ExitCode::FAILURE
        }
    };
    log.flush(server::FLUSH_LIMIT);
    code
}
