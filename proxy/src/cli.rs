//! The command line, as types.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use log::LevelFilter;

use crate::control::remote::Target;

/// A reverse proxy for Server-Sent Events.
///
/// Placed in front of an existing backend, it passes event streams through unbuffered and unchanged, keeps silent ones
/// open with heartbeats between events, cuts what hangs, and passes everything else on as it is.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(group = ArgGroup::new("what to serve").args(["config", "upstream"]).required(true))]
pub struct Cli {
    /// A subcommand in place of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

const EXAMPLES: &str = "\
Examples:
  sse-proxy --upstream 127.0.0.1:3000
      Serve 127.0.0.1:8080 in front of a backend on port 3000, every setting at its default.
  sse-proxy --upstream 127.0.0.1:3000 --listen 0.0.0.0:80 --admin 127.0.0.1:9090
      The same for the world, with /metrics, /healthz and /readyz on port 9090.
  sse-proxy --config sse-proxy.yaml
      Serve what the file says; docs/configuration.md describes every key.
  sse-proxy check-config sse-proxy.yaml
      Report errors in a file, and settings that are probably not meant. With --strict, warnings exit 1: for CI.
  sse-proxy reload --config sse-proxy.yaml
      Let the process that runs with this file read it again, and report what has changed.

Exit codes:
  0   shut down as requested, or the file is valid, or the process has reloaded
  1   cannot serve, for example because an address is in use; check-config --strict has warnings; reload has failed
  64  the command line or the configuration is wrong
  70  a bug
Signals: SIGTERM, SIGINT and SIGQUIT stop accepting and end streams between events; a second one exits at once.
SIGHUP reads the configuration again.";

/// How to serve.
#[derive(Args, Debug)]
pub struct Serve {
    /// Read the configuration from this file.
    #[arg(long, value_name = "FILE", env = "SSE_PROXY_CONFIG", conflicts_with_all = ["upstream", "listen", "admin"])]
    pub config: Option<PathBuf>,
    /// Serve this backend, with defaults for everything else.
    #[arg(long, value_name = "HOST:PORT")]
    pub upstream: Option<String>,
    /// Listen on this address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Serve /metrics, /healthz and /readyz here.
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// How much to log, on standard error.
    #[arg(long, value_name = "LEVEL", env = "SSE_PROXY_LOG", default_value = "info", global = true)]
    pub log_level: LevelFilter,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file and the files that it names: exit 0 when it can be served, 64 when it cannot.
    CheckConfig {
        /// Exit with 1 if there are warnings.
        #[arg(long)]
        strict: bool,
        /// The file.
        file: PathBuf,
    },
    /// Let a running process read its configuration again, and report the outcome: exit 0 if it has, 1 if nothing has changed.
    Reload(Reload),
}

/// How `reload` finds the process.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("process").args(["admin", "config", "pid_file"]).required(true))]
pub struct Reload {
    /// The address of its admin listener, or unix:/path.
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// The configuration file that it runs with, which names its admin listener or its pid file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its pid file. The outcome is in its log only.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The file of the admin listener's token; --config knows it.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
}

impl From<Reload> for Target {
    fn from(reload: Reload) -> Self {
        match (reload.admin, reload.config, reload.pid_file) {
            (Some(admin), ..) => Self::Admin(admin, reload.token_file),
            (_, Some(config), _) => Self::Config(config),
            (.., pid_file) => Self::PidFile(pid_file.unwrap_or_default()),
        }
    }
}
