//! What is kept of a stream's request for the log, in few bytes: there is one for each of tens of thousands of streams.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::permit::StreamPermit;
use crate::limits::ClientPermit;

/// Limit on the part of a target that is kept, in bytes, for as long as the stream runs.
const KEPT_TARGET_BYTES: usize = 1024;

/// Marks a truncated target; it cannot occur in a request.
const CUT: &str = "…";

/// A stream's request and where it went.
#[derive(Clone)]
pub struct StreamInfo {
    client: Option<Address>,
    upstream: Server,
    first_byte_ms: u32,
    /// Method and target with a space between them, then each label behind a line feed: one allocation.
    request: Box<str>,
}

/// The server at the other end.
enum Server {
    Unknown,
    /// A server that only the caller knows.
    Address(Address),
    /// One whose streams are counted.
    Endpoint(Arc<Endpoint>),
    /// Any of these, for a stream that occupies part of a limit: only such streams pay for it.
    Limited(Box<Limited>),
}

struct Limited {
    server: Server,
    permit: Permit,
}

enum Permit {
    Opening(StreamPermit),
    /// What is left of it once the stream runs.
    Running(ClientPermit),
}

impl Clone for Server {
    /// Without the permit: there is one for each stream.
    fn clone(&self) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Address(address) => Self::Address(*address),
            Self::Endpoint(endpoint) => Self::Endpoint(endpoint.clone()),
            Self::Limited(limited) => limited.server.clone(),
        }
    }
}

impl Server {
    fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Self::Endpoint(endpoint) => Some(endpoint),
            Self::Limited(limited) => limited.server.endpoint(),
            Self::Unknown | Self::Address(_) => None,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::Address(address) => Some(SocketAddr::from(*address)),
            Self::Endpoint(endpoint) => Some(endpoint.address),
            Self::Limited(limited) => limited.server.address(),
        }
    }
}

/// A socket address without the scope and flow of IPv6: 20 bytes in place of 32.
type Address = (IpAddr, u16);

impl StreamInfo {
    /// Keeps the client's and the server's address, the request's method and the first kilobyte of its target, and the time
    /// from the request to the upstream's response head.
    pub fn new(
        client: Option<SocketAddr>,
        upstream: Option<SocketAddr>,
        method: &str,
        target: &str,
        first_byte: Duration,
    ) -> Self {
        let short = |address: SocketAddr| (address.ip(), address.port());
        let end = (0..=KEPT_TARGET_BYTES.min(target.len())).rev().find(|at| target.is_char_boundary(*at));
        let kept = &target[..end.unwrap_or_default()];
        let cut = if kept.len() < target.len() { CUT } else { "" };
        Self {
            client: client.map(short),
            upstream: upstream.map(short).map_or(Server::Unknown, Server::Address),
            first_byte_ms: u32::try_from(first_byte.as_millis()).unwrap_or(u32::MAX),
            request: format!("{method} {kept}{cut}").into_boxed_str(),
        }
    }

    /// The same with labels, `user=42`, one on each line.
    #[must_use]
    pub(crate) fn labelled(self, labels: &str) -> Self {
        if labels.is_empty() {
            return self;
        }
        let request = format!("{}\n{labels}", self.request).into_boxed_str();
        Self { request, ..self }
    }

    /// The same for a stream of this endpoint, which counts it while it runs.
    #[must_use]
    pub(crate) fn at(self, endpoint: Option<Arc<Endpoint>>) -> Self {
        match endpoint {
            Some(endpoint) => Self { upstream: Server::Endpoint(endpoint), ..self },
            None => self,
        }
    }

    /// The same for a stream that occupies part of a limit, from here until it is dropped.
    #[must_use]
    pub(crate) fn holding(self, permit: Option<StreamPermit>) -> Self {
        let Some(permit) = permit else { return self };
        let limited = Limited { server: self.upstream, permit: Permit::Opening(permit) };
        Self { upstream: Server::Limited(Box::new(limited)), ..self }
    }

    /// Keeps of the permit what a running stream occupies.
    pub(super) fn begun(&mut self) {
        let Server::Limited(_) = self.upstream else { return };
        let Server::Limited(limited) = std::mem::replace(&mut self.upstream, Server::Unknown) else { return };
        let Limited { server, permit } = *limited;
        let client = match permit {
            Permit::Opening(permit) => permit.begun(),
            Permit::Running(client) => Some(client),
        };
        self.upstream = match client {
            Some(client) => Server::Limited(Box::new(Limited { server, permit: Permit::Running(client) })),
            None => server,
        };
    }

    /// The endpoint that counts the stream.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.upstream.endpoint().map(|endpoint| &**endpoint)
    }

    /// The client's address: the peer's, or the one that a trusted proxy reports. The port is 0 if only the proxy knows it.
    pub fn client(&self) -> Option<SocketAddr> {
        self.client.map(SocketAddr::from)
    }

    /// The upstream server's address.
    pub fn upstream(&self) -> Option<SocketAddr> {
        self.upstream.address()
    }

    /// The request's method.
    pub fn method(&self) -> &str {
        self.request.split_once(' ').map_or("", |(method, _)| method)
    }

    /// The request's target, path and query; one that is longer than a kilobyte is cut and ends with `…`.
    pub fn path(&self) -> &str {
        let target = self.request.split_once(' ').map_or("", |(_, target)| target);
        target.split_once('\n').map_or(target, |(target, _)| target)
    }

    /// What its backend has labelled it with in `Sse-Proxy-Label`: names and values.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.request.lines().skip(1).filter_map(|label| label.split_once('='))
    }

    /// From the request to the upstream's response head, to the millisecond.
    pub fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms.into())
    }
}

impl fmt::Debug for StreamInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("StreamInfo").field(&self.client()).field(&self.request).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_request_are_kept() {
        let client = "[2001:db8::1]:443".parse().ok();
        let label = StreamInfo::new(client, None, "POST", "/chat?q=a b", Duration::from_micros(1500));
        assert_eq!((label.client(), label.upstream()), (client, None));
        assert_eq!((label.method(), label.path()), ("POST", "/chat?q=a b"));
        assert_eq!(label.first_byte(), Duration::from_millis(1));
    }

    #[test]
    fn labels_are_kept_behind_the_request() {
        let info = StreamInfo::new(None, None, "GET", "/events?a=b", Duration::ZERO);
        assert_eq!(info.labels().next(), None);
        let info = info.labelled("").labelled("user=42\norg=a=b");
        assert_eq!((info.method(), info.path()), ("GET", "/events?a=b"));
        assert_eq!(info.labels().collect::<Vec<_>>(), [("user", "42"), ("org", "a=b")]);
    }

    #[test]
    fn an_endpoint_takes_no_more_memory_than_an_address() {
        let address = "192.0.2.1:80".parse().expect("address");
        let info = StreamInfo::new(None, Some(address), "GET", "/", Duration::ZERO);
        assert_eq!(info.upstream(), Some(address));
        let other = Arc::new(Endpoint::new("192.0.2.2:80".parse().expect("address"), "app", false));
        assert_eq!(info.at(Some(other.clone())).upstream(), Some(other.address));
        assert_eq!(size_of::<StreamInfo>(), 64, "a silent stream keeps one");
    }

    #[test]
    fn a_long_target_is_truncated() {
        for (target, kept) in [
            ("/".repeat(1024), "/".repeat(1024)),
            ("/".repeat(1025), "/".repeat(1024) + "…"),
            ("/".repeat(1023) + "ä", "/".repeat(1023) + "…"),
            ("ä".repeat(30_000), "ä".repeat(512) + "…"),
        ] {
            let info = StreamInfo::new(None, None, "GET", &target, Duration::ZERO);
            assert_eq!(info.path(), kept);
            assert!(info.request.len() <= "GET ".len() + KEPT_TARGET_BYTES + CUT.len());
        }
    }

    /// There is one of these for each of tens of thousands of streams: the permit of a limited one makes no other larger.
    #[test]
    fn a_permit_takes_no_room_in_other_streams() {
        assert_eq!(size_of::<Server>(), size_of::<Option<(u32, Address)>>());
    }
}
