//! Programs to start for each turn: found, and large enough for the load.

use super::Source;
use super::programs;
use crate::cli::StackArgs;
use crate::error::CommandError;
use crate::limits::{self, Server};
use crate::target::{StackConfig, Target, haproxy, nginx};

/// Reads the names of `--targets`.
pub(in crate::commands) fn find_targets(names: &[String]) -> Result<Vec<Target>, CommandError> {
    Ok(names.iter().map(|name| name.parse()).collect::<Result<Vec<Target>, _>>()?)
}

/// Finds the programs that `targets` need, and checks that they, the origins and the clients can hold `streams`.
///
/// # Errors
/// With what to install, or to set.
pub(in crate::commands) fn started(
    args: &StackArgs,
    targets: &[Target],
    streams: u64,
    heartbeat: std::time::Duration,
    descriptor_limit: u64,
) -> Result<Source, CommandError> {
    limits::check_descriptors(streams, args.processes, descriptor_limit)?;
    let programs = programs::find(args, targets)?;
    let origin = Server { who: "origin", descriptors_per_stream: 1, processes: args.origins, option: "--origins" };
    origin.check(streams, descriptor_limit)?;
    let workers = args.workers.unwrap_or(1);
    let proxy = Server { who: "sse-proxy", descriptors_per_stream: 2, processes: workers, option: "--workers" };
    if targets.iter().any(|target| target.has_proxy()) {
        proxy.check(streams, descriptor_limit)?;
    }
    let haproxy_server = Server { who: "haproxy", ..proxy };
    // HAProxy's workers are threads of one process, unless that may not have descriptors enough.
    let haproxy_processes = haproxy_server.fewest_processes(streams, descriptor_limit).min(workers);
    if targets.iter().any(|target| target.has_haproxy()) {
        Server { processes: haproxy_processes, ..haproxy_server }.check(streams, descriptor_limit)?;
        haproxy::check_config(&args.haproxy_conf)?;
    }
    for (target, config) in [(Target::Nginx, &args.nginx_conf), (Target::NginxSseProxy, &args.front_conf)] {
        if targets.contains(&target) {
            nginx::check_config(config, streams, args.workers, descriptor_limit)?;
        }
    }
    Ok(Source::Start(StackConfig {
        programs,
        nginx_conf: args.nginx_conf.clone(),
        front_conf: args.front_conf.clone(),
        haproxy_conf: args.haproxy_conf.clone(),
        workers: args.workers,
        haproxy_processes,
        heartbeat,
    }))
}
