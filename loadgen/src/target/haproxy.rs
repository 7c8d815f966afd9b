//! Starts HAProxy with a configuration file as it stands, only the addresses replaced.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use super::config_file::{read, readdress};
use super::error::TargetError;
use super::process::Running;
use super::{address, probe};

const LISTEN: &str = "bind :8080";
const OPTION: &str = "--haproxy-conf";
const UPSTREAM: &str = "server origin:9000 origin:9000";

/// An HAProxy to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Haproxy<'a> {
    pub(super) program: &'a Path,
    pub(super) config: &'a Path,
    /// So many processes share the addresses: HAProxy has threads, and needs more than one process only for descriptors.
    pub(super) processes: u64,
    /// Threads of each; `None` for what the configuration says.
    pub(super) threads: Option<u64>,
    /// Last byte of its loopback addresses.
    pub(super) host: u8,
}

impl Haproxy<'_> {
    /// Starts it in front of `upstreams`; returns its processes with their addresses when they answer.
    pub(super) async fn start(
        &self,
        upstreams: &[SocketAddr],
        directory: &Path,
    ) -> Result<(Vec<Running>, Vec<SocketAddr>), TargetError> {
        let refuse = |source| TargetError::Start { program: "haproxy".to_owned(), source };
        let text = read(self.config, OPTION)?;
        let count = u8::try_from(upstreams.len()).unwrap_or(u8::MAX);
        let listen = address::free(self.host, count).map_err(refuse)?;
        let text = readdress(&text, self.config, LISTEN, |address| format!("bind {address}"), &listen)?;
        let server = |address| format!("server {address} {address}");
        let text = readdress(&text, self.config, UPSTREAM, server, upstreams)?;
        let config = directory.join("haproxy.cfg");
        std::fs::write(&config, text).map_err(refuse)?;
        // In the foreground, whatever the file says.
        let mut arguments: Vec<OsString> = vec!["-db".into(), "-f".into(), config.into()];
        if let Some(threads) = self.threads {
            let more = directory.join("haproxy-threads.cfg");
            std::fs::write(&more, format!("global\n    nbthread {threads}\n")).map_err(refuse)?;
            arguments.extend(["-f".into(), more.into()]);
        }
        let mut all = Vec::new();
        for process in 1..=self.processes {
            let mut running =
                Running::start(&format!("haproxy-{process}"), self.program, &arguments, directory, false)?;
            let entry = listen[0];
            running.ready(async |_: &Running| matches!(probe::get(entry, "GET", "/healthz").await, Ok(200))).await?;
            all.push(running);
        }
        // That one of them answers says nothing of the one that was started last.
        for running in &mut all {
            running.check()?;
        }
        Ok((all, listen))
    }
}

/// Checks that a configuration can be read and has the lines that are replaced.
///
/// # Errors
/// What is wrong with it.
pub fn check_config(path: &Path) -> Result<(), TargetError> {
    let text = read(path, OPTION)?;
    [LISTEN, UPSTREAM]
        .iter()
        .try_for_each(|begin| readdress(&text, path, begin, |address| address.to_string(), &[]).map(|_| ()))
}
