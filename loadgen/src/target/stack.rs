//! The targets of a comparison: no program between clients and origin, one, or two in a row.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::error::TargetError;
use super::haproxy::Haproxy;
use super::listener_spec::ListenerSpec;
use super::nginx::{BASELINE_UPSTREAM, FRONT_UPSTREAM, Nginx};
use super::process::Running;
use super::proxy::SseProxy;
use super::tree;
use crate::client::tls::Trust;
use crate::protocol::ClientProtocol;

const NGINX_HOST: u8 = 12;
const PROXY_HOST: u8 = 13;
const FRONT_HOST: u8 = 14;
const HAPROXY_HOST: u8 = 15;

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
    /// HAProxy.
    #[serde(rename = "haproxy")]
    Haproxy,
}

/// Not the name of a target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}`: targets are direct, nginx, sse-proxy, nginx+sse-proxy and haproxy")]
pub struct UnknownTarget(String);

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// nginx.
    pub nginx: PathBuf,
    /// sse-proxy.
    pub proxy: PathBuf,
    /// HAProxy.
    pub haproxy: PathBuf,
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
    /// Configuration of HAProxy.
    pub haproxy_conf: PathBuf,
    /// Worker processes of each program; `None` for what each does by itself.
    pub workers: Option<u64>,
    /// Processes of HAProxy, whose workers are threads.
    pub haproxy_processes: u64,
    /// Heartbeat interval of sse-proxy.
    pub heartbeat: Duration,
    /// The protocol of the listener.
    pub client_protocol: ClientProtocol,
}

/// A started target.
#[derive(Debug)]
pub struct Stack {
    /// Where clients connect to.
    pub entry: Vec<SocketAddr>,
    listener_spec: ListenerSpec,
    programs: Vec<Running>,
}

impl Target {
    /// Its name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::SseProxy => "sse-proxy",
            Self::NginxSseProxy => "nginx+sse-proxy",
            Self::Haproxy => "haproxy",
        }
    }

    /// TCP sockets on the machine for `streams`, of which `per_connection` share one of the clients': two for each connection
    /// of each hop.
    #[must_use]
    pub fn sockets(self, streams: u64, per_connection: u64) -> u64 {
        let hops_behind = u64::from(self.has_nginx()) + u64::from(self.has_proxy()) + u64::from(self.has_haproxy());
        2 * (streams.div_ceil(per_connection) + streams * hops_behind)
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

    /// Whether HAProxy is part of it.
    #[must_use]
    pub fn has_haproxy(self) -> bool {
        self == Self::Haproxy
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
        let all = [Self::Direct, Self::Nginx, Self::SseProxy, Self::NginxSseProxy, Self::Haproxy];
        all.into_iter().find(|target| target.name() == text).ok_or_else(|| UnknownTarget(text.to_owned()))
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
        let listener_spec = ListenerSpec::prepare(config.client_protocol, directory)?;
        let mut stack = Self { entry: origin.to_vec(), listener_spec, programs: Vec::new() };
        let StackConfig { programs, workers, heartbeat, .. } = config;
        if target.has_proxy() {
            let behind_nginx = ListenerSpec::default();
            let proxy = SseProxy {
                program: &programs.proxy,
                heartbeat: *heartbeat,
                listener_spec: if target.has_nginx() { &behind_nginx } else { &stack.listener_spec },
                workers: *workers,
                host: PROXY_HOST,
            };
            let (processes, entry) = proxy.start(&stack.entry, directory).await?;
            stack.add(processes, entry);
        }
        if target.has_nginx() {
            let (name, config_file, upstream_line, host) = match target {
                Target::NginxSseProxy => ("front", &config.front_conf, FRONT_UPSTREAM, FRONT_HOST),
                _ => ("nginx", &config.nginx_conf, BASELINE_UPSTREAM, NGINX_HOST),
            };
            let nginx = Nginx {
                name,
                program: &programs.nginx,
                config: config_file,
                workers: *workers,
                upstream_line,
                listener_spec: &stack.listener_spec,
                host,
            };
            let (process, entry) = nginx.start(&stack.entry, directory).await?;
            stack.add(vec![process], entry);
        }
        if target.has_haproxy() {
            let haproxy = Haproxy {
                program: &programs.haproxy,
                config: &config.haproxy_conf,
                processes: config.haproxy_processes,
                threads: workers.map(|workers| (workers / config.haproxy_processes).max(1)),
                host: HAPROXY_HOST,
            };
            let (processes, entry) = haproxy.start(&stack.entry, directory).await?;
            stack.add(processes, entry);
        }
        Ok(stack)
    }

    /// What clients have to trust.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.listener_spec.trust()
    }

    /// The `Host` to ask for at `address`.
    #[must_use]
    pub fn authority(&self, address: SocketAddr) -> String {
        self.listener_spec.authority(address)
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

    fn add(&mut self, processes: Vec<Running>, entry: Vec<SocketAddr>) {
        self.programs.extend(processes);
        self.entry = entry;
    }

    fn sum(&self, read: impl Fn(u32) -> Result<u64, TargetError>) -> Result<Option<u64>, TargetError> {
        if self.programs.is_empty() {
            return Ok(None);
        }
        self.programs.iter().map(|program| read(program.pid())).sum::<Result<u64, _>>().map(Some)
    }
}
