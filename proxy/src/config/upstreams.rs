//! `upstreams`: the backends.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::keepalive::TcpKeepalive;
use super::listen::Listen;
use super::names::check_name;
use super::values::{self, Server};

/// A backend.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map: `{servers: [127.0.0.1:3000]}`")]
pub struct Upstream {
    /// Its servers, used round robin.
    #[serde(deserialize_with = "servers")]
    pub servers: Vec<Server>,
    /// TCP keep-alive on connections to the servers.
    #[serde(default)]
    pub tcp_keepalive: TcpKeepalive,
}

/// Checks the upstreams beside the proxy's own listeners.
pub(super) fn check(upstreams: &BTreeMap<String, Upstream>, listeners: &[Listen]) -> Result<(), Problem> {
    if upstreams.is_empty() {
        return Err(Problem::new(&["upstreams"], "is empty", "name at least one upstream with its servers"));
    }
    for (name, upstream) in upstreams {
        check_name(&["upstreams"], name)?;
        upstream.tcp_keepalive.check().map_err(|problem| problem.under(&["upstreams", name]))?;
        if upstream.servers.is_empty() {
            let remedy = "list at least one, such as [127.0.0.1:3000]";
            return Err(Problem::new(&["upstreams", name, "servers"], "is empty", remedy));
        }
        for (at, server) in upstream.servers.iter().enumerate() {
            let own = listeners.iter().find(|listen| values::is_reached_at(&listen.address, server));
            if let Some(listen) = own {
                let what = format!("is {}:{}, which is the listener {}", server.host, server.port, listen.address);
                let remedy =
                    "name the backend's own address: with this one, every request would loop back to the proxy";
                return Err(Problem::new(&["upstreams", name, "servers", &at.to_string()], what, remedy));
            }
        }
    }
    Ok(())
}

fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Server>, D::Error> {
    values::list(deserializer, "a list: `servers: [127.0.0.1:3000]`")
}

pub(super) fn by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Upstream>, D::Error> {
    values::by_name(deserializer, "a map of names: `upstreams: {app: {servers: [127.0.0.1:3000]}}`")
}
