//! Limits on file descriptors and ephemeral ports, checked before anything starts.

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
        "{who} needs {needed} file descriptors, but the hard limit is {limit}\n  remedy: {remedy}, or raise the limit \
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
        "{connections} connections exceed the ephemeral ports: {ports} ports for each of {pairs} source/destination \
         pairs\n  remedy: {remedy}"
    )]
    Ports {
        /// The requested number.
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
        who: "each client process".to_owned(),
        needed,
        limit,
        remedy: format!("spread over processes with --processes {enough}"),
    })
}

/// A server whose processes share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server<'a> {
    /// Its name.
    pub who: &'a str,
    /// How many streams share a connection of its clients, beside which each has one of its own on the other side; `None`
    /// where there is no other side.
    pub passes_on: Option<u64>,
    /// Its processes.
    pub processes: u64,
    /// The option that sets their number.
    pub option: &'a str,
}

impl Server<'_> {
    /// Checks that each process can hold its share of `streams`.
    ///
    /// # Errors
    /// With the number of streams that would fit, and the number of processes that would do.
    pub fn check(self, streams: u64, limit: u64) -> Result<(), LimitError> {
        let needed = self.needed(streams);
        if needed <= limit {
            return Ok(());
        }
        let enough = self.fewest_processes(streams, limit);
        let spare = limit.saturating_sub(OWN_DESCRIPTORS);
        // Groups of streams that share a connection, and the connection.
        let room = self.passes_on.map_or(spare, |each| spare / (each + 1) * each);
        let fits = if self.processes == 1 { room } else { room * self.processes * 10 / 11 };
        let who = match self.processes {
            1 => self.who.to_owned(),
            processes => format!("each of the {processes} processes of {}", self.who),
        };
        let remedy = format!("use {} {enough}, or --streams {fits}", self.option);
        Err(LimitError::Descriptors { who, needed, limit, remedy })
    }

    /// The smallest number of processes that can hold `streams`, whatever number there is now.
    #[must_use]
    pub fn fewest_processes(self, streams: u64, limit: u64) -> u64 {
        let most = streams.max(1);
        (1..=most).find(|processes| Self { processes: *processes, ..self }.needed(streams) <= limit).unwrap_or(most)
    }

    /// Descriptors that the process with the largest share needs: the kernel deals connections out by their hash, and a
    /// share may well be some per cent larger than the others. A tenth is reckoned with.
    fn needed(self, streams: u64) -> u64 {
        let share = match self.processes {
            1 => streams,
            processes => (streams * 11).div_ceil(processes * 10),
        };
        share + self.passes_on.map_or(0, |each| share.div_ceil(each)) + OWN_DESCRIPTORS
    }
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

    const PROXY: Server<'_> = Server { who: "sse-proxy", passes_on: Some(1), processes: 1, option: "--workers" };

    #[test]
    fn what_fits_passes() {
        assert_eq!(check_descriptors(10_000, 1, 20_000), Ok(()));
        assert_eq!(check_ports(28_232, 1, 1, 28_232), Ok(()));
        assert_eq!(PROXY.check(9_000, 20_000), Ok(()));
    }

    #[test]
    fn the_remedy_is_enough() {
        let error = check_descriptors(100_000, 1, 20_000).expect_err("too many");
        assert!(error.to_string().contains("--processes 6"), "{error}");
        assert_eq!(check_descriptors(100_000, 6, 20_000), Ok(()));

        let error = check_ports(100_000, 1, 1, 28_232).expect_err("too many");
        assert!(error.to_string().contains("--source 127.0.0.2-127.0.0.5"), "{error}");
        assert_eq!(check_ports(100_000, 4, 1, 28_232), Ok(()));

        let error = PROXY.check(12_000, 20_000).expect_err("too many");
        assert!(error.to_string().contains("use --workers 2, or --streams 9968"), "{error}");
        assert_eq!(PROXY.check(9_968, 20_000), Ok(()));
        assert_eq!(Server { processes: 2, ..PROXY }.check(12_000, 20_000), Ok(()));
    }

    #[test]
    fn streams_that_share_connections_need_fewer_descriptors() {
        let shared = Server { passes_on: Some(100), ..PROXY };
        let error = shared.check(19_900, 20_000).expect_err("too many");
        assert!(error.to_string().contains("--streams 19700"), "{error}");
        assert_eq!(shared.check(19_700, 20_000), Ok(()));
        let origin = Server { passes_on: None, ..PROXY };
        assert_eq!(origin.check(19_936, 20_000), Ok(()));
    }

    #[test]
    fn shares_of_several_processes_are_unequal() {
        let three = Server { processes: 3, ..PROXY };
        let error = three.check(29_904, 20_000).expect_err("fits only if the shares were equal");
        assert!(error.to_string().contains("use --workers 4, or --streams 27185"), "{error}");
        assert_eq!(three.check(27_185, 20_000), Ok(()));
        assert_eq!(PROXY.fewest_processes(30_000, 20_000), 4);
    }

    #[test]
    fn the_port_range_counts_both_ends() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(28_232));
        assert_eq!(parse_port_range("nonsense"), None);
    }
}
