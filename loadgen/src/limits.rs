//! What the system lets a process hold: file descriptors and ephemeral ports, checked before anything starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Descriptors a process needs beside its connections: standard streams, the poller, timers, pipes to workers.
const OWN_DESCRIPTORS: u64 = 64;
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Linux' default, 32768–60999, when the range cannot be read.
const USUAL_PORTS: u64 = 28_232;

/// A load that does not fit, with what would make it fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Too many connections for one process.
    #[error(
        "{who}: {needed} file descriptors are needed but the hard limit is {limit}\n  remedy: {remedy}, or raise the limit \
         (`ulimit -Hn`, `ulimits.nofile` in Compose, LimitNOFILE in systemd)"
    )]
    Descriptors {
        /// Which process.
        who: String,
        /// What it needs.
        needed: u64,
        /// What it may have.
        limit: u64,
        /// What would help.
        remedy: String,
    },
    /// Too many connections for the ports there are.
    #[error(
        "{connections} connections do not fit into the ephemeral ports: {ports} ports for each of {pairs} source/destination \
         pairs\n  remedy: {remedy}"
    )]
    Ports {
        /// What was asked for.
        connections: u64,
        /// Size of the port range.
        ports: u64,
        /// How often the range can be used.
        pairs: u64,
        /// What would help.
        remedy: String,
    },
}

/// Raises the soft limit on descriptors to the hard one, for this process and those it starts, and returns it.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = if raised.is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// How many ephemeral ports a source address has towards one destination.
#[must_use]
pub fn ephemeral_ports() -> u64 {
    std::fs::read_to_string(PORT_RANGE).ok().and_then(|text| parse_port_range(&text)).unwrap_or(USUAL_PORTS)
}

/// Checks that each of `processes` can hold its share of `connections`.
///
/// # Errors
/// With the number of processes that would do.
pub fn check_descriptors(connections: u64, processes: u64, limit: u64) -> Result<(), LimitError> {
    let needed = connections.div_ceil(processes) + OWN_DESCRIPTORS;
    if needed <= limit {
        return Ok(());
    }
    let enough = connections.div_ceil(limit.saturating_sub(OWN_DESCRIPTORS).max(1));
    Err(LimitError::Descriptors {
        who: "sse-loadgen".to_owned(),
        needed,
        limit,
        remedy: format!("spread over processes with --processes {enough}"),
    })
}

/// Checks that a server can hold `streams` in one process: a descriptor for each, and where it passes them on to clients, one
/// more for each of the clients' connections, on which so many share one.
///
/// # Errors
/// With the number of streams that would fit.
pub fn check_server(
    who: &str,
    streams: u64,
    passed_on_per_connection: Option<u64>,
    limit: u64,
) -> Result<(), LimitError> {
    let needed = streams + passed_on_per_connection.map_or(0, |each| streams.div_ceil(each)) + OWN_DESCRIPTORS;
    if needed <= limit {
        return Ok(());
    }
    let spare = limit.saturating_sub(OWN_DESCRIPTORS);
    // Groups of `each` streams and their connection.
    let fits = passed_on_per_connection.map_or(spare, |each| spare / (each + 1) * each);
    Err(LimitError::Descriptors { who: who.to_owned(), needed, limit, remedy: format!("use --streams {fits}") })
}

/// Checks that the ports of `sources` × `destinations` suffice.
///
/// # Errors
/// With the number of source addresses that would do.
pub fn check_ports(connections: u64, sources: u64, destinations: u64, ports: u64) -> Result<(), LimitError> {
    let (sources, destinations) = (sources.max(1), destinations.max(1));
    let pairs = sources * destinations;
    if connections <= pairs * ports {
        return Ok(());
    }
    let enough = connections.div_ceil(ports * destinations);
    let last = std::net::Ipv4Addr::from(
        u32::from(std::net::Ipv4Addr::new(127, 0, 0, 1)).saturating_add(u32::try_from(enough).unwrap_or(u32::MAX)),
    );
    let remedy =
        format!("use {enough} source addresses (on loopback --source 127.0.0.2-{last}), or more destination URLs");
    Err(LimitError::Ports { connections, ports, pairs, remedy })
}

fn parse_port_range(text: &str) -> Option<u64> {
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last >= first).then(|| last - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_passes() {
        assert_eq!(check_descriptors(10_000, 1, 20_000), Ok(()));
        assert_eq!(check_ports(28_232, 1, 1, 28_232), Ok(()));
        assert_eq!(check_server("nginx", 9_000, Some(1), 20_000), Ok(()));
    }

    #[test]
    fn the_remedy_is_enough() {
        let error = check_descriptors(100_000, 1, 20_000).expect_err("too many");
        assert!(error.to_string().contains("--processes 6"), "{error}");
        assert_eq!(check_descriptors(100_000, 6, 20_000), Ok(()));

        let error = check_ports(100_000, 1, 1, 28_232).expect_err("too many");
        assert!(error.to_string().contains("--source 127.0.0.2-127.0.0.5"), "{error}");
        assert_eq!(check_ports(100_000, 4, 1, 28_232), Ok(()));

        let error = check_server("sse-proxy", 12_000, Some(1), 20_000).expect_err("too many");
        assert!(error.to_string().contains("--streams 9968"), "{error}");
        assert_eq!(check_server("sse-proxy", 9_968, Some(1), 20_000), Ok(()));
    }

    #[test]
    fn streams_that_share_connections_need_fewer_descriptors() {
        assert_eq!(check_server("origin", 19_936, None, 20_000), Ok(()));
        let error = check_server("sse-proxy", 19_900, Some(100), 20_000).expect_err("too many");
        assert!(error.to_string().contains("--streams 19700"), "{error}");
        assert_eq!(check_server("sse-proxy", 19_700, Some(100), 20_000), Ok(()));
    }

    #[test]
    fn the_port_range_counts_both_ends() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(28_232));
        assert_eq!(parse_port_range("nonsense"), None);
    }
}
