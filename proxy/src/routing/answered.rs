//! Reports the requests that did not become streams.

use std::net::SocketAddr;
use std::time::Duration;

/// A request that did not become a stream, and its response.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The name of its route; empty if it has none.
    pub route: &'a str,
    /// Its address, or the one that a trusted proxy reports.
    pub client: Option<SocketAddr>,
    /// Of the request.
    pub method: &'a str,
    /// Of the request.
    pub target: &'a str,
    /// Of the response; 0 if there was none.
    pub status: u16,
    /// Of the response's body.
    pub bytes: u64,
    /// From the request to the end of the response.
    pub duration: Duration,
}

/// Observes requests. Called on the threads that serve them, so it must not block.
pub trait RequestObserver: Send + Sync {
    /// A request has been answered, or has failed.
    fn answered(&self, page: &Answered<'_>);
}
