//! `tcp_keepalive`, of listeners and of upstreams.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
use super::values::Limit;
use crate::stream::KeepAlive;

/// The kernel's limits on TCP keep-alive (`MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` in seconds, `MAX_TCP_KEEPCNT`).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MAX_KEEPALIVE_COUNT: u32 = 127;

/// TCP keep-alive, which detects that the peer of a silent connection has vanished.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `tcp_keepalive: {idle: 60s}`")]
pub struct TcpKeepalive {
    /// Silence before the first probe; 0 sends none.
    pub idle: Limit,
    /// Interval between probes.
    pub interval: Limit,
    /// Unanswered probes after which the connection is closed.
    pub count: u32,
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

    pub(super) fn check(&self) -> Result<(), Problem> {
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
