//! Which limits there are.

/// A limit that a stream can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Of all streams of the process.
    All,
    /// Of descriptors.
    Descriptors,
    /// Of the streams of a route.
    Streams,
    /// Of the streams of one client of a route.
    StreamsPerClient,
    /// Of the rate at which a route's streams open.
    OpeningRate,
    /// Of the rate at which one client's streams open.
    OpeningRatePerClient,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 6] = [
        Self::All,
        Self::Descriptors,
        Self::Streams,
        Self::StreamsPerClient,
        Self::OpeningRate,
        Self::OpeningRatePerClient,
    ];

    /// The name in metrics and logs: that of the key, if there is one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Descriptors => "descriptors",
            Self::Streams => "streams",
            Self::StreamsPerClient => "streams_per_client",
            Self::OpeningRate => "opening_rate",
            Self::OpeningRatePerClient => "opening_rate_per_client",
        }
    }
}
