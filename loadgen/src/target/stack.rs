//! What can be compared: nothing in between, one program, or two in a row.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::entrance::{Entrance, SERVER_NAME};
use super::nginx::Nginx;
use super::proxy::SseProxy;
use super::{Running, TargetError, address, tree};
use crate::client::tls::Trust;
use crate::protocol::Protocol;

const ORIGIN_HOST: u8 = 11;
const NGINX_HOST: u8 = 12;
const PROXY_HOST: u8 = 13;
const FRONT_HOST: u8 = 14;

/// What stands between clients and origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Nothing.
    #[serde(rename = "direct")]
    Direct,
    /// nginx.
    #[serde(rename = "nginx")]
    Nginx,
    /// sse-proxy.
    #[serde(rename = "sse-proxy")]
    SseProxy,
    /// nginx in front of sse-proxy.
    #[serde(rename = "nginx+sse-proxy")]
    NginxSseProxy,
}

/// Not the name of a target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}`: targets are direct, nginx, sse-proxy and nginx+sse-proxy")]
pub struct UnknownTarget(String);

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// nginx.
    pub nginx: PathBuf,
    /// sse-proxy.
    pub proxy: PathBuf,
}

/// How targets are started.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// Where the programs are; only those a target needs have to exist.
    pub programs: Programs,
    /// Configuration of nginx alone.
    pub nginx_conf: PathBuf,
    /// Configuration of nginx in front of sse-proxy.
    pub front_conf: PathBuf,
    /// Heartbeat interval of sse-proxy.
    pub heartbeat: Duration,
    /// What clients speak to the target.
    pub protocol: Protocol,
    /// How many streams they put on a connection.
    pub streams_per_connection: u64,
}

/// A started target.
#[derive(Debug)]
pub struct Stack {
    /// Where clients connect to.
    pub entry: Vec<SocketAddr>,
    /// Whose certificates they have to believe.
    pub trust: Trust,
    entrance: Entrance,
    programs: Vec<Running>,
}

impl Target {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Nginx, Self::SseProxy, Self::NginxSseProxy];

    /// Its name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::SseProxy => "sse-proxy",
            Self::NginxSseProxy => "nginx+sse-proxy",
        }
    }

    /// TCP sockets on the machine for streams that clients put on so many connections: two for each connection of each hop.
    #[must_use]
    pub fn sockets(self, streams: u64, connections: u64) -> u64 {
        2 * (connections + streams * (u64::from(self.has_nginx()) + u64::from(self.has_proxy())))
    }

    /// Whether nginx is part of it.
    #[must_use]
    pub fn has_nginx(self) -> bool {
        matches!(self, Self::Nginx | Self::NginxSseProxy)
    }

    /// Whether sse-proxy is part of it.
    #[must_use]
    pub fn has_proxy(self) -> bool {
        matches!(self, Self::SseProxy | Self::NginxSseProxy)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        Self::ALL.into_iter().find(|target| target.name() == text).ok_or_else(|| UnknownTarget(text.to_owned()))
    }
}

impl Stack {
    /// Starts a target in front of `origin`, logs and configurations in `directory`; returns it when it passes requests on.
    ///
    /// # Errors
    /// When a program is missing, refuses its configuration or does not become ready.
    pub async fn start(
        target: Target,
        config: &StackConfig,
        origin: &[SocketAddr],
        directory: &Path,
    ) -> Result<Self, TargetError> {
        let entrance = Entrance::prepare(config.protocol, directory)?;
        let trust = entrance.trust();
        let mut stack = Self { entry: origin.to_vec(), trust, entrance, programs: Vec::new() };
        if target.has_proxy() {
            let behind = Entrance::default();
            let entrance = if target.has_nginx() { &behind } else { &stack.entrance };
            let (program, heartbeat) = (&config.programs.proxy, config.heartbeat);
            let proxy = SseProxy { program, heartbeat, entrance, host: PROXY_HOST };
            stack.add(proxy.start(&stack.entry, directory).await?);
        }
        if target.has_nginx() {
            let (name, config_file, upstream_line, host) = match target {
                Target::NginxSseProxy => ("front", &config.front_conf, "server proxy:8080", FRONT_HOST),
                _ => ("nginx", &config.nginx_conf, "server origin:9000", NGINX_HOST),
            };
            let nginx = Nginx {
                name,
                program: &config.programs.nginx,
                config: config_file,
                upstream_line,
                entrance: &stack.entrance,
                streams_per_connection: config.streams_per_connection,
                host,
            };
            stack.add(nginx.start(&stack.entry, directory).await?);
        }
        Ok(stack)
    }

    /// The `Host` to ask for at `address`.
    #[must_use]
    pub fn authority(&self, address: SocketAddr) -> String {
        match self.entrance.certificate {
            Some(_) => format!("{SERVER_NAME}:{}", address.port()),
            None => address.to_string(),
        }
    }

    /// Proportional set size of all its processes; `None` when there are none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pss_bytes(&self) -> Result<Option<u64>, TargetError> {
        self.sum(tree::pss_bytes)
    }

    /// CPU time of all its processes so far; `None` when there are none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu_us(&self) -> Result<Option<u64>, TargetError> {
        self.sum(tree::cpu_us)
    }

    /// Whether all programs are still there.
    ///
    /// # Errors
    /// The one that is not.
    pub fn check(&mut self) -> Result<(), TargetError> {
        self.programs.iter_mut().try_for_each(Running::check)
    }

    /// Ends all programs and waits for that.
    pub async fn stop(self) {
        for program in self.programs.into_iter().rev() {
            program.stop().await;
        }
    }

    fn add(&mut self, (program, entry): (Running, Vec<SocketAddr>)) {
        self.programs.push(program);
        self.entry = entry;
    }

    fn sum(&self, read: impl Fn(u32) -> Result<u64, TargetError>) -> Result<Option<u64>, TargetError> {
        if self.programs.is_empty() {
            return Ok(None);
        }
        self.programs.iter().map(|program| read(program.pid())).sum::<Result<u64, _>>().map(Some)
    }
}

/// Starts this program's own origin in a process of its own, on as many loopback addresses as `streams` need.
///
/// # Errors
/// When it does not become ready.
pub async fn start_origin(
    streams: u64,
    threads: u16,
    directory: &Path,
) -> Result<(Running, Vec<SocketAddr>), TargetError> {
    let refuse = |source| TargetError::Start { program: "origin".to_owned(), source };
    let own = std::env::current_exe().map_err(refuse)?;
    let count = address::needed(streams);
    let mut arguments = vec!["origin".into(), "--threads".into(), threads.to_string().into()];
    for address in address::loopbacks(ORIGIN_HOST, count) {
        arguments.extend(["--listen".into(), address.to_string().into()]);
    }
    let mut running = Running::start("origin", &own, &arguments, directory, false)?;
    running.ready(async |origin: &Running| listening(&origin.output()).len() == usize::from(count)).await?;
    let addresses = listening(&running.output());
    Ok((running, addresses))
}

fn listening(output: &str) -> Vec<SocketAddr> {
    output.lines().filter_map(|line| line.strip_prefix("listening on ")?.parse().ok()).collect()
}
