//! Finds the programs to start for each turn, and checks that they can hold the load.

use std::time::Duration;

use super::load::Source;
use super::programs;
use crate::cli::StackArgs;
use crate::error::CommandError;
use crate::limits::{self, Server};
use crate::plan;
use crate::protocol::ClientProtocol;
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
    client_protocol: ClientProtocol,
    heartbeat: Duration,
    descriptor_limit: u64,
) -> Result<Source, CommandError> {
    let connections = plan::connections(streams, args.processes, client_protocol.streams_per_connection);
    limits::check_descriptors(connections, args.processes, descriptor_limit)?;
    let programs = programs::find(&args.programs, targets)?;
    let origin = Server { who: "origin", passes_on: None, processes: args.origins, option: "--origins" };
    origin.check(streams, descriptor_limit)?;
    let workers = args.workers.unwrap_or(1);
    let passes_on = Some(client_protocol.streams_per_connection);
    let proxy = Server { who: "sse-proxy", passes_on, processes: workers, option: "--workers" };
    if targets.iter().any(|target| target.has_proxy()) {
        proxy.check(streams, descriptor_limit)?;
    }
    let haproxy_server = Server { who: "haproxy", ..proxy };
    // HAProxy's workers are threads of one process, unless that may not have descriptors enough.
    let haproxy_processes = haproxy_server.fewest_processes(streams, descriptor_limit).min(workers);
    if targets.iter().any(|target| target.has_haproxy()) {
        Server { processes: haproxy_processes, ..haproxy_server }.check(streams, descriptor_limit)?;
        haproxy::check_config(&args.programs.haproxy_conf)?;
    }
    for (target, config, upstream_line) in [
        (Target::Nginx, &args.programs.nginx_conf, nginx::BASELINE_UPSTREAM),
        (Target::NginxSseProxy, &args.programs.front_conf, nginx::FRONT_UPSTREAM),
    ] {
        if targets.contains(&target) {
            nginx::check_config(config, upstream_line, streams, args.workers, descriptor_limit)?;
        }
    }
    Ok(Source::Start(StackConfig {
        programs,
        nginx_conf: args.programs.nginx_conf.clone(),
        front_conf: args.programs.front_conf.clone(),
        haproxy_conf: args.programs.haproxy_conf.clone(),
        workers: args.workers,
        haproxy_processes,
        heartbeat,
        client_protocol,
    }))
}
