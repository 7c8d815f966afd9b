//! Why a stream ended. The metric label, the log field and the tests all use this one enum.

/// The one reason a stream ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The upstream ended its response, and so did the proxy.
    UpstreamEnd,
    /// The upstream's connection failed or closed before its response was complete.
    UpstreamBroken,
    /// The upstream's chunked framing is malformed.
    UpstreamProtocol,
    /// The client closed its connection.
    ClientGone,
    /// The client sent more on the running stream than is allowed.
    ClientFlood,
    /// The upstream was silent for `timeouts.idle`.
    IdleTimeout,
    /// The client read nothing for `timeouts.write`.
    WriteTimeout,
    /// The stream reached `timeouts.lifetime`.
    Lifetime,
    /// The proxy is shutting down.
    Drain,
    /// It was ended through the admin listener.
    Admin,
    /// The stream was dropped without an end: the process stopped, or its driver failed.
    Dropped,
}

/// The side that ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Side {
    /// The backend.
    Upstream,
    /// The client.
    Downstream,
    /// This proxy.
    Internal,
}

impl EndReason {
    /// Every reason, for tables with a row for each.
    pub const ALL: &'static [Self] = &[
        Self::UpstreamEnd,
        Self::UpstreamBroken,
        Self::UpstreamProtocol,
        Self::ClientGone,
        Self::ClientFlood,
        Self::IdleTimeout,
        Self::WriteTimeout,
        Self::Lifetime,
        Self::Drain,
        Self::Admin,
        Self::Dropped,
    ];

    /// The name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamEnd => "upstream_end",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::ClientGone => "client_gone",
            Self::ClientFlood => "client_flood",
            Self::IdleTimeout => "idle_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain",
            Self::Admin => "admin",
            Self::Dropped => "dropped",
        }
    }

    /// The side that caused this end.
    pub fn side(self) -> Side {
        match self {
            Self::UpstreamEnd | Self::UpstreamBroken | Self::UpstreamProtocol | Self::IdleTimeout => Side::Upstream,
            Self::ClientGone | Self::ClientFlood | Self::WriteTimeout => Side::Downstream,
            Self::Lifetime | Self::Drain | Self::Admin | Self::Dropped => Side::Internal,
        }
    }
}

impl Side {
    /// The name used in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::Internal => "internal",
        }
    }
}
