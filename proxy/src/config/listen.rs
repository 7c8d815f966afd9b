//! `listen` and `admin`: the addresses where clients and operators connect.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::keepalive::TcpKeepalive;
use super::values::{self, Limit, Network};
use crate::wire::proxy_protocol::ProxyProtocol;

/// The shortest time from one look at the files of a certificate to the next.
const SHORTEST_RELOAD: Duration = Duration::from_secs(1);

/// An address to listen on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map, such as `{address: 0.0.0.0:8080}`")]
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
    /// Whether connections begin with a header of the PROXY protocol (`listen … proxy_protocol`, `accept-proxy`).
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
}

/// A certificate and its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map: `tls: {cert: fullchain.pem, key: privkey.pem}`")]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub cert: std::path::PathBuf,
    /// PEM file with the private key.
    pub key: std::path::PathBuf,
    /// How often to look whether the files have changed; 0: only at a reload.
    #[serde(default = "Limit::none")]
    pub reload: Limit,
}

/// Where operators and Prometheus connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map: `admin: {address: 127.0.0.1:9090}`")]
pub struct Admin {
    /// `host:port`; port 0 picks a free port. Or `unix:/path`.
    pub address: String,
    /// File with the token that `/streams` asks for.
    pub token_file: Option<std::path::PathBuf>,
}

impl Admin {
    /// The path of a unix socket.
    pub fn unix_path(&self) -> Option<&std::path::Path> {
        self.address.strip_prefix("unix:").map(std::path::Path::new)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.unix_path().map_or_else(|| values::is_listen_address(&self.address), std::path::Path::is_absolute)
    }
}

pub(super) fn default_listen() -> Vec<Listen> {
    vec![Listen { address: "127.0.0.1:8080".to_owned(), ..Listen::default() }]
}

fn bad_address(key: &[&str], address: &str) -> Problem {
    Problem::new(key, format!("is `{address}`"), "write host:port, such as 0.0.0.0:8080 or [::]:8080")
}

/// Checks the listeners and the address of `admin`.
pub(super) fn check(listeners: &[Listen], admin: Option<&Admin>, trusted: Option<&[Network]>) -> Result<(), Problem> {
    if listeners.is_empty() {
        return Err(Problem::new(&["listen"], "is empty", "name at least one address, such as 0.0.0.0:8080"));
    }
    for (at, listen) in listeners.iter().enumerate() {
        if !values::is_listen_address(&listen.address) {
            return Err(bad_address(&["listen", &at.to_string(), "address"], &listen.address));
        }
        if listen.h2c && listen.tls.is_some() {
            let what = "asks for HTTP/2 without TLS on a TLS listener";
            let remedy = "remove h2c: with TLS, clients negotiate HTTP/2 by themselves";
            return Err(Problem::new(&["listen", &at.to_string(), "h2c"], what, remedy));
        }
        let reload = listen.tls.as_ref().and_then(|tls| tls.reload.get());
        if let Some(reload) = reload.filter(|reload| *reload < SHORTEST_RELOAD) {
            let what = format!("is {}, and the files would be read all the time", values::show(reload));
            let remedy = "write a duration from 1s, such as 1m, or 0 to read them at a reload only";
            return Err(Problem::new(&["listen", &at.to_string(), "tls", "reload"], what, remedy));
        }
        if listen.proxy_protocol != ProxyProtocol::Off && trusted.is_some_and(<[_]>::is_empty) {
            let what = "expects the PROXY protocol, and trusted_proxies is empty: nobody may send it";
            let remedy = "name the proxies in front in trusted_proxies, or remove proxy_protocol";
            return Err(Problem::new(&["listen", &at.to_string(), "proxy_protocol"], what, remedy));
        }
        listen.tcp_keepalive.check().map_err(|problem| problem.under(&["listen", &at.to_string()]))?;
    }
    if let Some(admin) = admin.filter(|admin| !admin.is_valid()) {
        let remedy = "write host:port, such as 127.0.0.1:9090, or unix: with an absolute path, such as unix:/run/sse-proxy/admin.sock";
        return Err(Problem::new(&["admin", "address"], format!("is `{}`", admin.address), remedy));
    }
    Ok(())
}

pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Listen>, D::Error> {
    values::list(deserializer, "a list: `listen: [{address: 0.0.0.0:8080}]`")
}

pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Network>>, D::Error> {
    values::list(deserializer, "a list: `trusted_proxies: [10.0.0.0/8]`, or `[]` for none").map(Some)
}
