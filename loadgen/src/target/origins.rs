//! Starts this program's own origin, once or several times.

use std::net::SocketAddr;
use std::path::Path;

use super::address;
use super::error::TargetError;
use super::process::Running;

/// Last byte of their loopback addresses.
const HOST: u8 = 11;

/// Which origins to start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OriginSetup {
    /// Streams that all of them together are to hold.
    pub streams: u64,
    /// How many processes.
    pub processes: u64,
    /// Threads of each.
    pub threads: u16,
}

/// Origins that run.
#[derive(Debug)]
pub(super) struct Origins {
    pub(super) processes: Vec<Running>,
    /// One address of each process, where its gate is.
    pub(super) gates: Vec<SocketAddr>,
    /// All addresses of all of them.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Origins {
    /// Starts each in a process of its own, on as many loopback addresses as its share of the streams needs.
    ///
    /// # Errors
    /// When one does not become ready.
    pub(super) async fn start(setup: OriginSetup, directory: &Path) -> Result<Self, TargetError> {
        let refuse = |source| TargetError::Start { program: "origin".to_owned(), source };
        let own = std::env::current_exe().map_err(refuse)?;
        let each = address::needed(setup.streams.div_ceil(setup.processes.max(1)));
        let mut origins = Self { processes: Vec::new(), gates: Vec::new(), addresses: Vec::new() };
        let all = u8::try_from(setup.processes * u64::from(each)).unwrap_or(u8::MAX);
        let addresses: Vec<SocketAddr> = address::loopbacks(HOST, all).collect();
        for (number, share) in addresses.chunks(usize::from(each)).enumerate() {
            let mut arguments = vec!["origin".into(), "--threads".into(), setup.threads.to_string().into()];
            for address in share {
                arguments.extend(["--listen".into(), address.to_string().into()]);
            }
            let mut running = Running::start(&format!("origin-{}", number + 1), &own, &arguments, directory, false)?;
            running.ready(async |origin: &Running| listening(&origin.output()).len() == share.len()).await?;
            let addresses = listening(&running.output());
            origins.gates.extend(addresses.first());
            origins.addresses.extend(addresses);
            origins.processes.push(running);
        }
        Ok(origins)
    }
}

fn listening(output: &str) -> Vec<SocketAddr> {
    output.lines().filter_map(|line| line.strip_prefix("listening on ")?.parse().ok()).collect()
}
