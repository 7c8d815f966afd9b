//! An address of an upstream's server, and what is known of it while the process runs.
//!
//! One endpoint is shared by all that need it: the list that a request tries, the streams that it serves, and the
//! metrics.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An address to connect to, and how.
#[derive(Debug)]
pub struct Endpoint {
    /// The address.
    pub address: SocketAddr,
    /// The server's name as it is configured.
    pub host: Box<str>,
    /// Whether connections to it use TLS.
    pub tls: bool,
    /// What balancing and the metrics read.
    pub state: EndpointState,
}

/// The state of an endpoint. It lives as long as the endpoint is in use, whatever the name service answers meanwhile.
#[derive(Debug, Default)]
pub struct EndpointState {
    active_streams: AtomicUsize,
}

impl Endpoint {
    /// An endpoint without streams.
    pub fn new(address: SocketAddr, host: &str, tls: bool) -> Self {
        Self { address, host: host.into(), tls, state: EndpointState::default() }
    }
}

impl Display for Endpoint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}

impl EndpointState {
    /// The number of streams that the endpoint serves now.
    pub fn active_streams(&self) -> usize {
        self.active_streams.load(Ordering::Relaxed)
    }

    pub(super) fn stream_opened(&self) {
        self.active_streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_ended(&self) {
        self.active_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
