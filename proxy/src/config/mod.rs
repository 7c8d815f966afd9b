//! The configuration: the YAML file as validated types, and the default of every key.
//!
//! `docs/configuration.md` is the reference for people; the doc comments here are its source.

mod error;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::headers::TrustedProxies;
use crate::sse::{Heartbeat, HeartbeatStyle};
use crate::stream::{HeartbeatPolicy, KeepAlive, Policy, Timeouts};
use crate::takeover::ClientPolicy;
use crate::wire::request::{HeadLimits, MAX_FIELDS};

pub use error::ConfigError;
pub use values::{Limit, Network, Percent, Server, Size};

/// Heartbeats at this interval or more do not prevent the idle timeouts of common load balancers (30 s and 60 s).
const LONG_HEARTBEAT: Duration = Duration::from_secs(30);

/// The smallest and the largest limit on the size of a head: every client and every backend fits the first, Pingora reads
/// the second.
const MIN_HEAD: Size = Size::kib(1);
const MAX_HEAD: Size = Size::kib(512);
/// The largest number of threads.
const MAX_THREADS: usize = 1024;

/// Longest name of a route or an upstream, in bytes: it is a label of each metric.
const MAX_NAME_BYTES: usize = 64;

/// The kernel's limits on TCP keep-alive (`MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` in seconds, `MAX_TCP_KEEPCNT`).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MAX_KEEPALIVE_COUNT: u32 = 127;

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

/// The driver of streams that are plain TCP on both sides; every other stream has a task.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum DriverConfig {
    /// A table for each thread, with the least memory and CPU.
    #[default]
    Parked,
    /// A task for each stream.
    Task,
}

/// An address to listen on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// `host:port`; port 0 picks a free port.
    pub address: String,
    /// Use TLS, with HTTP/2 or HTTP/1.1 as the client chooses (ALPN).
    pub tls: Option<Tls>,
    /// Also accept HTTP/2 without TLS, from clients that begin with its preface.
    #[serde(default)]
    pub h2c: bool,
    /// Whether several processes may listen on this address (`SO_REUSEPORT`); the kernel distributes connections.
    #[serde(default)]
    pub reuse_port: bool,
    /// TCP keep-alive on client connections.
    #[serde(default)]
    pub tcp_keepalive: TcpKeepalive,
}

/// TCP keep-alive, which detects that the peer of a silent connection has vanished.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpKeepalive {
    /// Silence before the first probe; 0 sends none.
    pub idle: Limit,
    /// Interval between probes.
    pub interval: Limit,
    /// Unanswered probes after which the connection is closed.
    pub count: u32,
}

/// A certificate and its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub cert: std::path::PathBuf,
    /// PEM file with the private key.
    pub key: std::path::PathBuf,
}

/// Where operators and Prometheus connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `host:port`; port 0 picks a free port.
    pub address: String,
}

/// A backend.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its servers, used round robin.
    pub servers: Vec<Server>,
    /// TCP keep-alive on connections to the servers.
    #[serde(default)]
    pub tcp_keepalive: TcpKeepalive,
}

/// A route: which requests go to which upstream, and their policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which requests; default: all.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// The upstream they go to; default: the only one.
    pub upstream: Option<String>,
    /// The name in metrics and logs; default: the path prefix.
    pub name: Option<String>,
    /// Which of them are carried as streams.
    #[serde(default)]
    pub stream: StreamMode,
    /// Heartbeats on silent streams.
    #[serde(default)]
    pub heartbeat: HeartbeatConfig,
    /// How long each kind of waiting may last.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Size limits.
    #[serde(default)]
    pub limits: RouteLimits,
}

/// Which requests a route takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The path begins with this.
    pub path_prefix: String,
}

/// Which requests of a route are carried as streams.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// Those whose `Accept` names `text/event-stream`, as `EventSource` sends it.
    #[default]
    Accept,
    /// All of them; for endpoints that stream whatever the request accepts, such as model servers on POST.
    Always,
    /// None.
    Never,
}

/// Heartbeats.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeartbeatConfig {
    /// Silence before a heartbeat; 0 sends none.
    pub interval: Limit,
    /// Its form.
    pub style: HeartbeatStyle,
    /// Its text.
    pub payload: String,
}

/// Time limits; 0 disables one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutConfig {
    /// Connecting to a server (`proxy_connect_timeout`, `connect_timeout`).
    pub connect: Limit,
    /// From the request to the response head (the first `proxy_read_timeout`).
    pub first_byte: Limit,
    /// Silence of the upstream within a stream (`proxy_read_timeout`, `stream_idle_timeout`).
    pub idle: Limit,
    /// Whether comments from the upstream do not restart `idle`.
    pub idle_ignores_comments: bool,
    /// Silence of the upstream within a response that is not a stream (`proxy_read_timeout`).
    pub read: Limit,
    /// Time without progress while bytes wait to be written to the client (`send_timeout`, `write_timeout`).
    pub write: Limit,
    /// Age of a stream (`max_stream_duration`).
    pub lifetime: Limit,
    /// The largest part of `lifetime` by which it is shortened at random.
    pub lifetime_jitter: Percent,
}

/// Limits on the size of what an upstream sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// A response head, interim or final (`proxy_buffer_size`, `tune.bufsize`, `max_response_headers_kb`).
    pub response_header: Size,
}

/// Limits on client connections, for every request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Time limits; 0 disables one.
    pub timeouts: ClientTimeouts,
    /// Size limits of a request head.
    pub limits: ClientLimits,
}

/// Time limits on a client; 0 disables one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTimeouts {
    /// Total time for a request head (`client_header_timeout`, `timeout http-request`).
    pub header: Limit,
    /// Time between two reads of a request's body (`client_body_timeout`).
    pub body: Limit,
    /// Time without a request on a connection that has had one (`keepalive_timeout`, `timeout http-keep-alive`).
    pub keepalive: Limit,
    /// Silence of an HTTP/2 connection before a PING (`connection_keepalive`).
    pub ping: Limit,
}

/// Limits on the size of a request head.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientLimits {
    /// The request target (`large_client_header_buffers`).
    pub target: Size,
    /// The whole head (`large_client_header_buffers`, `max_request_headers_kb`).
    pub header: Size,
    /// Header fields (`max_headers_count`, `tune.http.maxhdr`).
    pub fields: usize,
}

/// What happens to streams on SIGTERM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long streams may take to reach the end of an event before they are cut.
    pub timeout: Limit,
}

/// Where the line for each ended stream goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// To standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to a file.
    File(std::path::PathBuf),
}

impl std::str::FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "off" => Ok(Self::Off),
            path if path.contains('/') => Ok(Self::File(path.into())),
            _ => Err(format!(
                "`{text}` is not a valid destination: write stdout, off, or a path with a slash, such as ./access.log"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_scalar(deserializer, "stdout, off, or a path")
    }
}

fn bad_address(key: &[&str], address: &str) -> error::Problem {
    error::Problem::new(key, format!("is `{address}`"), "write host:port, such as 0.0.0.0:8080 or [::]:8080")
}

fn default_listen() -> Vec<Listen> {
    vec![Listen { address: "127.0.0.1:8080".to_owned(), ..Listen::default() }]
}

impl Default for TcpKeepalive {
    fn default() -> Self {
        Self { idle: Limit::seconds(60), interval: Limit::seconds(15), count: 4 }
    }
}

impl TcpKeepalive {
    /// The kernel's settings; `None` if keep-alive is off.
    pub fn get(&self) -> Option<KeepAlive> {
        let (idle, interval) = (self.idle.get()?, self.interval.get()?);
        Some(KeepAlive { idle, interval, count: self.count })
    }

    fn check(&self) -> Result<(), error::Problem> {
        use error::Problem;
        for (key, limit) in [("idle", self.idle), ("interval", self.interval)] {
            let Some(limit) = limit.get() else { continue };
            if limit.subsec_nanos() > 0 || limit > MAX_KEEPALIVE {
                let what = format!("is {limit:?}");
                let remedy = "write whole seconds, from 1s to 32767s, the kernel's range";
                return Err(Problem::new(&["tcp_keepalive", key], what, remedy));
            }
        }
        if self.interval.get().is_none() {
            let remedy = "write at least 1s; to disable keep-alive, set idle: 0";
            return Err(Problem::new(&["tcp_keepalive", "interval"], "is 0", remedy));
        }
        if !(1..=MAX_KEEPALIVE_COUNT).contains(&self.count) {
            let what = format!("is {}", self.count);
            return Err(Problem::new(&["tcp_keepalive", "count"], what, "write a number from 1 to 127"));
        }
        Ok(())
    }
}

/// Checks that a name is valid in a metric's label and in a line of the log.
fn check_name(key: &[&str], name: &str) -> Result<(), error::Problem> {
    let is_plain = |letter: char| !letter.is_control() && !letter.is_whitespace() && !"\"'\\".contains(letter);
    let what = match name.len() {
        0 => "is empty".to_owned(),
        length if length > MAX_NAME_BYTES => format!("is a name of {length} bytes"),
        _ if !name.chars().all(is_plain) => {
            format!("is {name:?}, which has a space, a quote, a backslash or a control character")
        }
        _ => return Ok(()),
    };
    let remedy = format!("use 1 to {MAX_NAME_BYTES} bytes without any of these: metrics and logs are labelled with it");
    Err(error::Problem::new(key, what, remedy))
}

impl Default for Match {
    fn default() -> Self {
        Self { path_prefix: "/".to_owned() }
    }
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { interval: Limit::seconds(15), style: HeartbeatStyle::Comment, payload: String::new() }
    }
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            connect: Limit::seconds(3),
            first_byte: Limit::seconds(60),
            idle: Limit::seconds(300),
            idle_ignores_comments: false,
            read: Limit::seconds(60),
            write: Limit::seconds(30),
            lifetime: Limit::none(),
            lifetime_jitter: Percent(20.0),
        }
    }
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self { response_header: Size::kib(64) }
    }
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            header: Limit::seconds(60),
            body: Limit::seconds(60),
            keepalive: Limit::seconds(75),
            ping: Limit::seconds(60),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { target: Size::kib(8), header: Size::kib(32), fields: 100 }
    }
}

impl Client {
    /// The limits on a client's connection.
    pub fn policy(&self) -> ClientPolicy {
        let (timeouts, limits) = (&self.timeouts, &self.limits);
        ClientPolicy {
            head: HeadLimits {
                target_bytes: limits.target.bytes(),
                head_bytes: limits.header.bytes(),
                fields: limits.fields,
            },
            header: timeouts.header.get(),
            body: timeouts.body.get(),
            keepalive: timeouts.keepalive.get(),
            ping: timeouts.ping.get(),
        }
    }

    fn check(&self) -> Result<(), error::Problem> {
        use error::Problem;
        let limits = &self.limits;
        if limits.fields == 0 || limits.fields > MAX_FIELDS {
            let what = format!("is {}, and has to be between 1 and {MAX_FIELDS}", limits.fields);
            return Err(Problem::new(&["client", "limits", "fields"], what, "write a number such as 100"));
        }
        let (smallest, largest) = (MIN_HEAD.bytes(), MAX_HEAD.bytes());
        for (name, size) in [("target", limits.target), ("header", limits.header)] {
            if !(smallest..=largest).contains(&size.bytes()) {
                let what = format!("is {size}, and has to be between {MIN_HEAD} and {MAX_HEAD}");
                return Err(Problem::new(&["client", "limits", name], what, "write a size such as 8KiB"));
            }
        }
        if limits.header.bytes() <= limits.target.bytes() {
            let what = format!("is {}, and a head holds a target of up to {}", limits.header, limits.target);
            let remedy = "make it larger than client.limits.target";
            return Err(Problem::new(&["client", "limits", "header"], what, remedy));
        }
        Ok(())
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Limit::seconds(30) }
    }
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

    fn check(&self) -> Result<(), error::Problem> {
        use error::Problem;
        if self.listen.is_empty() {
            return Err(Problem::new(&["listen"], "is empty", "name at least one address, such as 0.0.0.0:8080"));
        }
        for (at, listen) in self.listen.iter().enumerate() {
            if !values::is_listen_address(&listen.address) {
                return Err(bad_address(&["listen", &at.to_string(), "address"], &listen.address));
            }
            if listen.h2c && listen.tls.is_some() {
                let what = "asks for HTTP/2 without TLS on a TLS listener";
                let remedy = "remove h2c: with TLS, clients negotiate HTTP/2 by themselves";
                return Err(Problem::new(&["listen", &at.to_string(), "h2c"], what, remedy));
            }
            listen.tcp_keepalive.check().map_err(|problem| problem.under(&["listen", &at.to_string()]))?;
        }
        if let Some(admin) = self.admin.as_ref().filter(|admin| !values::is_listen_address(&admin.address)) {
            return Err(bad_address(&["admin", "address"], &admin.address));
        }
        self.client.check()?;
        if self.threads == Some(0) {
            return Err(Problem::new(&["threads"], "is 0", "leave it out for one thread per core"));
        }
        if let Some(threads) = self.threads.filter(|threads| *threads > MAX_THREADS) {
            let remedy = format!("write at most {MAX_THREADS}, or leave it out for one thread per core");
            return Err(Problem::new(&["threads"], format!("is {threads}"), remedy));
        }
        if self.upstreams.is_empty() {
            return Err(Problem::new(&["upstreams"], "is empty", "name at least one upstream with its servers"));
        }
        for (name, upstream) in &self.upstreams {
            check_name(&["upstreams"], name)?;
            upstream.tcp_keepalive.check().map_err(|problem| problem.under(&["upstreams", name]))?;
            if upstream.servers.is_empty() {
                let remedy = "list at least one, such as [127.0.0.1:3000]";
                return Err(Problem::new(&["upstreams", name, "servers"], "is empty", remedy));
            }
            for (at, server) in upstream.servers.iter().enumerate() {
                let own = self.listen.iter().find(|listen| values::is_reached_at(&listen.address, server));
                if let Some(listen) = own {
                    let what = format!("is {}:{}, which is the listener {}", server.host, server.port, listen.address);
                    let remedy =
                        "name the backend's own address: with this one, every request would loop back to the proxy";
                    return Err(Problem::new(&["upstreams", name, "servers", &at.to_string()], what, remedy));
                }
            }
        }
        for (at, route) in self.routes.iter().enumerate() {
            let at = at.to_string();
            self.check_route(route).map_err(|problem| problem.under(&["routes", &at]))?;
            let name = route.display_name();
            if self.routes.iter().filter(|other| other.display_name() == name).count() > 1 {
                let what = format!("has the name `{name}`, which another route has, too");
                return Err(Problem::new(
                    &["routes", &at],
                    what,
                    "set a different name: for each, which metrics and logs use",
                ));
            }
        }
        Ok(())
    }

    fn check_route(&self, route: &Route) -> Result<(), error::Problem> {
        use error::Problem;
        let known = self.upstreams.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match &route.upstream {
            Some(name) if !self.upstreams.contains_key(name) => {
                let what = format!("names `{name}`, which is not under upstreams");
                return Err(Problem::new(&["upstream"], what, format!("use one of: {known}")));
            }
            None if self.upstreams.len() != 1 => {
                let what = "has no upstream, and there is more than one to choose from";
                return Err(Problem::new(&[], what, format!("add upstream: with one of: {known}")));
            }
            _ => {}
        }
        if !route.matches.path_prefix.starts_with('/') {
            let what = format!("is `{}`", route.matches.path_prefix);
            return Err(Problem::new(&["match", "path_prefix"], what, "begin it with a slash"));
        }
        match &route.name {
            Some(name) => check_name(&["name"], name)?,
            None => check_name(&["match", "path_prefix"], &route.matches.path_prefix).map_err(|problem| {
                problem.with_remedy("give the route a name: for metrics and logs, which is the path prefix otherwise")
            })?,
        }
        let response_header = route.limits.response_header;
        if !(MIN_HEAD.bytes()..=MAX_HEAD.bytes()).contains(&response_header.bytes()) {
            let what = format!("is {response_header}, and has to be between {MIN_HEAD} and {MAX_HEAD}");
            return Err(Problem::new(&["limits", "response_header"], what, "write a size such as 64KiB"));
        }
        if let Err(source) = route.heartbeat.render() {
            return Err(Problem::new(&["heartbeat", "payload"], "does not fit the style", source.to_string()));
        }
        Ok(())
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

impl Route {
    /// The name in metrics and logs.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.matches.path_prefix)
    }

    /// The policy of this route's streams, without the settings of the upstream.
    pub fn policy(&self) -> Policy {
        let timeouts = &self.timeouts;
        let heartbeat = self.heartbeat.render().ok();
        Policy {
            heartbeat: self
                .heartbeat
                .interval
                .get()
                .and_then(|interval| heartbeat.map(|heartbeat| HeartbeatPolicy { interval, heartbeat })),
            timeouts: Timeouts {
                connect: timeouts.connect.get(),
                first_byte: timeouts.first_byte.get(),
                idle: timeouts.idle.get(),
                read: timeouts.read.get(),
                write: timeouts.write.get(),
                lifetime: timeouts.lifetime.get(),
                lifetime_jitter: timeouts.lifetime_jitter.0 / 100.0,
            },
            idle_ignores_comments: timeouts.idle_ignores_comments,
            keep_alive: None,
            response_head_bytes: self.limits.response_header.bytes(),
        }
    }
}

impl HeartbeatConfig {
    fn render(&self) -> Result<Heartbeat, crate::sse::HeartbeatError> {
        Heartbeat::new(self.style, &self.payload)
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
