//! `client`: limits on every client connection.

use serde::Deserialize;

use super::error::Problem;
use super::values::{Limit, Size};
use crate::takeover::ClientPolicy;
use crate::wire::request::{HeadLimits, MAX_FIELDS};

/// The smallest and the largest limit on the size of a head: every client fits the first, Pingora reads the second.
pub(super) const MIN_HEAD: Size = Size::kib(1);
pub(super) const MAX_HEAD: Size = Size::kib(512);

/// Limits on client connections, for every request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `client: {timeouts: {header: 10s}}`")]
pub struct Client {
    /// Time limits; 0 disables one.
    pub timeouts: ClientTimeouts,
    /// Size limits of a request head.
    pub limits: ClientLimits,
}

/// Time limits on a client; 0 disables one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `timeouts: {header: 10s}`")]
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
#[serde(deny_unknown_fields, default, expecting = "a map, such as `limits: {header: 64KiB}`")]
pub struct ClientLimits {
    /// The request target (`large_client_header_buffers`).
    pub target: Size,
    /// The whole head (`large_client_header_buffers`, `max_request_headers_kb`).
    pub header: Size,
    /// Header fields (`max_headers_count`, `tune.http.maxhdr`).
    pub fields: usize,
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

    pub(super) fn check(&self) -> Result<(), Problem> {
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
