//! The configuration: the YAML file as validated types, and the default of every key.
//!
//! `docs/configuration.md` is the reference for people; the doc comments here are its source.

mod client;
mod error;
mod keepalive;
mod listen;
mod names;
mod process;
mod routes;
mod streams;
mod upstreams;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::headers::TrustedProxies;
use error::Problem;
use listen::default_listen;

pub use client::{Client, ClientLimits, ClientTimeouts};
pub use error::ConfigError;
pub use keepalive::TcpKeepalive;
pub use listen::{Admin, Listen, Tls};
pub use process::{AccessLog, Drain, DriverConfig};
pub use routes::{Match, Route, StreamMode};
pub use streams::{HeartbeatConfig, TimeoutConfig};
pub use upstreams::Upstream;
pub use values::{Limit, Network, Percent, Server, Size};

/// Heartbeats at this interval or more do not prevent the idle timeouts of common load balancers (30 s and 60 s).
const LONG_HEARTBEAT: Duration = Duration::from_secs(30);

/// A whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    pub listen: Vec<Listen>,
    /// The proxies in front whose `X-Forwarded-For` and similar fields are trusted; default: those on this host.
    pub trusted_proxies: Option<Vec<Network>>,
    /// Where operators and Prometheus connect; none by default.
    pub admin: Option<Admin>,
    /// The backends, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Which requests go where, first match first. Default: everything to the only upstream.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Limits on client connections.
    #[serde(default)]
    pub client: Client,
    /// How a shutdown treats running streams.
    #[serde(default)]
    pub drain: Drain,
    /// Where the line for each ended stream goes.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Worker threads; default: one for each core.
    pub threads: Option<usize>,
    /// The driver of streams that are plain TCP on both sides.
    #[serde(default)]
    pub driver: DriverConfig,
}

impl Config {
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
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            serde_yaml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.check().map_err(|problem| problem.in_file(path, text))?;
        Ok(config)
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
            admin: admin.map(|address| Admin { address: address.to_owned() }),
            upstreams: BTreeMap::from([("upstream".to_owned(), upstream)]),
            routes: Vec::new(),
            client: Client::default(),
            drain: Drain::default(),
            access_log: AccessLog::default(),
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
        listen::check(&self.listen, self.admin.as_ref())?;
        self.client.check()?;
        process::check_threads(self.threads)?;
        upstreams::check(&self.upstreams, &self.listen)?;
        routes::check(&self.routes, &self.upstreams)
    }

    /// Settings that are valid and probably mistakes, one sentence for each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let open = self.listen.iter().find(|listen| listen.tls.is_none() && !values::is_loopback(&listen.address));
        if let (Some(listen), None) = (open, &self.trusted_proxies) {
            warnings.push(format!(
                "{} is open to other hosts without TLS, and trusted_proxies is not set: X-Forwarded-For, -Proto and the \
                 like are replaced unless they come from this host; name the proxies in front, or write \
                 trusted_proxies: [] if there are none",
                listen.address
            ));
        }
        for route in self.effective_routes() {
            let name = route.display_name();
            let Some(interval) = route.heartbeat.interval.get() else { continue };
            if interval >= LONG_HEARTBEAT {
                warnings.push(format!(
                    "route {name}: heartbeat.interval is {interval:?}; load balancers in front commonly cut connections \
                     that are silent for 30 s or 60 s, so 15s is safer"
                ));
            }
            if route.timeouts.lifetime.get().is_some_and(|lifetime| lifetime <= interval) {
                warnings.push(format!("route {name}: timeouts.lifetime ends streams before their first heartbeat"));
            }
            if route.timeouts.write.get().is_none() {
                warnings.push(format!(
                    "route {name}: timeouts.write is 0, so a client that stops reading holds its stream until \
                     timeouts.idle"
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_listener_for_other_hosts_without_trusted_proxies_causes_a_warning() {
        for (listen, warned) in [
            ("listen: [{address: '127.0.0.1:8080'}, {address: '[::1]:8080'}, {address: 'localhost:8080'}]", false),
            ("listen: [{address: '0.0.0.0:8080'}]", true),
            ("listen: [{address: '[::]:8080'}]", true),
            ("listen: [{address: '0.0.0.0:8443', tls: {cert: a, key: b}}]", false),
            ("listen: [{address: '0.0.0.0:8080'}]\ntrusted_proxies: []", false),
            ("listen: [{address: '0.0.0.0:8080'}]\ntrusted_proxies: [10.0.0.0/8]", false),
        ] {
            let config = parse(&format!("{listen}\nupstreams: {{app: {{servers: [127.0.0.1:3000]}}}}"));
            assert_eq!(config.warnings().iter().any(|text| text.contains("trusted_proxies")), warned, "{listen}");
        }
        let config = Config::for_upstream("127.0.0.1:3000", "0.0.0.0:8080", None).expect("valid");
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn a_long_heartbeat_interval_causes_a_warning() {
        let config = parse("upstreams: {app: {servers: [127.0.0.1:3000]}}\nroutes: [{heartbeat: {interval: 45s}}]");
        assert!(config.warnings()[0].contains("15s is safer"));
    }
}
