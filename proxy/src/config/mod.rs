//! The configuration: the YAML file as validated types, and the default of every key.
//!
//! `docs/configuration.md` is the reference for people; the doc comments here are its source.

mod access_log;
mod client;
mod error;
mod fields;
mod heads;
mod keepalive;
mod limits;
mod listen;
mod matching;
mod names;
mod process;
mod retry;
mod retry_after;
mod routes;
mod streams;
mod upstreams;
mod values;
mod walk;
mod warnings;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::headers::TrustedProxies;
use listen::default_listen;

pub use access_log::{AccessLog, AccessLogConfig, LoggedRequests};
pub use client::{Client, ClientLimits, ClientTimeouts};
pub use error::{ConfigError, Problem};
pub use fields::{FieldName, FieldValue, HostPattern, MethodName, PathText};
pub use heads::{ChangesConfig, HeadersConfig, Values};
pub use keepalive::TcpKeepalive;
pub use limits::{ClientBy, ClientNames, Limits, OpeningRate, RetryRange, RouteLimits};
pub use listen::{Admin, Listen, Tls};
pub use matching::{HeaderMatch, Match, PathMatch};
pub use process::{Drain, DriverConfig};
pub use retry::RetryConfig;
pub use retry_after::OnUnavailable;
pub use routes::{OnReload, Route, RouteMetrics, StreamMode};
pub use streams::{HeartbeatConfig, TimeoutConfig};
pub use upstreams::Upstream;
pub use values::{Limit, Network, Percent, Server, Size};

/// A file and what it says.
#[derive(Debug)]
pub struct ConfigFile {
    /// What the file says.
    pub config: Config,
    path: PathBuf,
    text: String,
}

/// A whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys, such as `upstreams: {app: {servers: [127.0.0.1:3000]}}`")]
pub struct Config {
    /// Where clients connect.
    #[serde(default = "default_listen", deserialize_with = "listen::list")]
    pub listen: Vec<Listen>,
    /// The proxies in front whose `X-Forwarded-For` and similar fields are trusted; default: those on this host.
    #[serde(default, deserialize_with = "listen::networks")]
    pub trusted_proxies: Option<Vec<Network>>,
    /// Where operators and Prometheus connect; none by default.
    pub admin: Option<Admin>,
    /// The backends, by name.
    #[serde(deserialize_with = "upstreams::by_name")]
    pub upstreams: BTreeMap<String, Upstream>,
    /// Which requests go where, first match first. Default: everything to the only upstream.
    #[serde(default, deserialize_with = "routes::list")]
    pub routes: Vec<Route>,
    /// Limits on client connections.
    #[serde(default)]
    pub client: Client,
    /// Limits on the streams of all routes.
    #[serde(default)]
    pub limits: Limits,
    /// How a shutdown treats running streams.
    #[serde(default)]
    pub drain: Drain,
    /// Where the line for each ended stream goes, and what is in it.
    #[serde(default)]
    pub access_log: AccessLogConfig,
    /// Where the number of the process is written; default: nowhere.
    pub pid_file: Option<PathBuf>,
    /// Worker threads; default: one for each core.
    pub threads: Option<usize>,
    /// The driver of streams that are plain TCP on both sides.
    #[serde(default)]
    pub driver: DriverConfig,
}

impl ConfigFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read, does not parse, or is invalid; the message names file, line, key and remedy.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses and checks the text of a file; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`ConfigFile::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let invalid = |line, problem| ConfigError::Invalid { path: path.to_owned(), line, problem };
        let config: Config = yaml::read(text).map_err(|problem| invalid(problem.line().unwrap_or(1), problem))?;
        config.check().map_err(|problem| invalid(walk::line_of(text, problem.key()), problem))?;
        Ok(Self { config, path: path.to_owned(), text: text.to_owned() })
    }

    /// The line of a problem, as `FILE:LINE`.
    pub fn location(&self, problem: &Problem) -> String {
        format!("{}:{}", self.path.display(), walk::line_of(&self.text, problem.key()))
    }
}

impl Config {
    /// Parses and checks the text of a file; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`ConfigFile::parse`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        ConfigFile::parse(path, text).map(|file| file.config)
    }

    /// The configuration of `sse-proxy --upstream`: one upstream, one route, every default.
    ///
    /// # Errors
    /// When an address is invalid; the message names the option.
    pub fn for_upstream(upstream: &str, listen: &str, admin: Option<&str>) -> Result<Self, String> {
        let server = upstream.parse().map_err(|error| format!("--upstream: {error}"))?;
        let upstream = Upstream { servers: vec![server], tcp_keepalive: TcpKeepalive::default() };
        for (option, address) in [("--listen", Some(listen)), ("--admin", admin)] {
            if let Some(address) = address.filter(|address| !values::is_listen_address(address)) {
                return Err(format!(
                    "{option}: `{address}` is not a valid address: write host:port, such as 0.0.0.0:8080"
                ));
            }
        }
        Ok(Self {
            listen: vec![Listen { address: listen.to_owned(), ..Listen::default() }],
            // Set explicitly, since the warning about the missing key applies to files only.
            trusted_proxies: Some(TrustedProxies::default().networks().iter().copied().map(Network).collect()),
            admin: admin.map(|address| Admin { address: address.to_owned(), token_file: None }),
            upstreams: BTreeMap::from([("upstream".to_owned(), upstream)]),
            routes: Vec::new(),
            client: Client::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            access_log: AccessLogConfig::default(),
            pid_file: None,
            threads: None,
            driver: DriverConfig::default(),
        })
    }

    /// The configured routes, or one that matches everything.
    pub fn effective_routes(&self) -> Vec<Route> {
        if self.routes.is_empty() { vec![Route::default()] } else { self.routes.clone() }
    }

    /// The name of the upstream of a route, once [checked](Config::parse).
    pub fn upstream_of<'a>(&'a self, route: &'a Route) -> Option<&'a str> {
        let only = || self.upstreams.keys().next().filter(|_| self.upstreams.len() == 1);
        route.upstream.as_deref().or_else(|| only().map(String::as_str))
    }

    /// The proxies in front whose forwarding fields are trusted.
    pub fn trusted_proxies(&self) -> TrustedProxies {
        let networks = self.trusted_proxies.as_ref().map(|networks| networks.iter().map(|network| network.0).collect());
        networks.map_or_else(TrustedProxies::default, TrustedProxies::new)
    }

    fn check(&self) -> Result<(), Problem> {
        listen::check(&self.listen, self.admin.as_ref(), self.trusted_proxies.as_deref())?;
        self.client.check()?;
        self.limits.check()?;
        process::check_threads(self.threads)?;
        self.drain.check()?;
        self.access_log.check()?;
        upstreams::check(&self.upstreams, &self.listen)?;
        routes::check(&self.routes, &self.upstreams)
    }

    /// Settings that are valid and probably mistakes.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = warnings::of_listeners(&self.listen, self.admin.as_ref(), self.trusted_proxies.as_deref());
        warnings.extend(warnings::of_upstreams(&self.upstreams));
        warnings.extend(warnings::of_routes(&self.routes));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(Path::new("test.yaml"), text).expect("valid")
    }

    #[test]
    fn every_key_has_a_default() {
        let config = parse("upstreams: {app: {servers: [127.0.0.1:3000]}}");
        assert_eq!(config.listen[0].address, "127.0.0.1:8080");
        let routes = config.effective_routes();
        assert_eq!(config.upstream_of(&routes[0]), Some("app"));
        let policy = routes[0].policy();
        assert_eq!(policy.heartbeat.expect("on").interval, Duration::from_secs(15));
        assert_eq!(policy.timeouts.lifetime, None);
        assert!(config.warnings().is_empty(), "the defaults cause no warning");
    }

    #[test]
    fn zero_disables() {
        let config = parse(
            "upstreams: {app: {servers: [127.0.0.1:3000]}}\nroutes: [{heartbeat: {interval: 0}, timeouts: {idle: 0s}}]",
        );
        let policy = config.routes[0].policy();
        assert!(policy.heartbeat.is_none());
        assert_eq!(policy.timeouts.idle, None);
    }
}
