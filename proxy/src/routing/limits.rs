//! The limits on streams: whether a request may become one, and how it is answered if not.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use http::header;
use pingora::http::RequestHeader;

use crate::driver::{MostStreams, Route, StreamPermit, StreamRegistry, descriptors};
use crate::headers::Client;
use crate::limits::{ClientLimits, Limit, Rate};
use crate::stream::Millis;
use crate::takeover::{RefuseReason, RetryPolicy};

/// The limits on the streams of a route. `None` is no limit.
#[derive(Clone, Debug, Default)]
pub struct StreamLimits {
    /// Streams at once, opening ones included.
    pub streams: Option<u64>,
    /// The rate at which they open.
    pub rate: Option<Rate>,
    /// The limits of each client.
    pub client: ClientLimits,
    /// Who is a client.
    pub client_key: ClientKey,
    /// The answer to a request that exceeds a limit, those of the process included.
    pub answer: RetryPolicy,
}

/// What tells clients apart. Requests without it are told apart by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientKey {
    /// The address. Addresses of IPv6 that share their first 64 bits are one client: a host has that many.
    #[default]
    Address,
    /// A request field, from trusted proxies only: anybody else could choose another value for each request.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// An argument of the query, as it is written there.
    Query(String),
}

/// A client, as it is hashed.
#[derive(Debug, PartialEq, Eq)]
enum Identity<'a> {
    V4([u8; 4]),
    V6([u8; 8]),
    Named(&'a [u8]),
    Unknown,
}

impl Hash for Identity<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Self::V4(address) => hasher.write(address),
            Self::V6(network) => hasher.write(network),
            Self::Named(name) => hasher.write(name),
            Self::Unknown => {}
        }
    }
}

impl StreamLimits {
    /// Decides whether a request may become a stream, and counts it. `all` limits the streams of the process, and
    /// `in_flight` requests have neither been answered nor become streams.
    ///
    /// # Errors
    /// The limit that is exceeded.
    pub(super) fn admit(
        &self,
        (route, request, client): (&Route, &RequestHeader, &Client),
        (registry, all, in_flight): (&Arc<StreamRegistry>, Option<u64>, usize),
        now: Millis,
    ) -> Result<Option<StreamPermit>, Limit> {
        if descriptors::are_short_for_streams(registry.active() + in_flight) {
            return Err(Limit::Descriptors);
        }
        let totals = &route.totals;
        let is_counted = all.is_some() || self.streams.is_some() || self.client.streams.is_some();
        let most = MostStreams { all, route: self.streams };
        let permit = is_counted
            .then(|| StreamPermit::acquire(registry.counts(), (totals.limits(), &totals.active), most))
            .transpose()?;
        // What refuses a client comes before the route's rate: it takes nothing of what is left for the others.
        let of_client = match self.client.is_none() {
            true => None,
            false => {
                let identity = self.client_key.identify(request, client);
                totals.limits().clients_or_new().admit(identity, self.client, now)?
            }
        };
        if self.rate.is_some_and(|rate| !totals.limits().rate().admit(rate, now)) {
            return Err(Limit::OpeningRate);
        }
        Ok(permit.map(|permit| permit.of_client(of_client)))
    }

    /// Counts and logs a request that exceeds `limit`. Returns the reason to refuse it.
    pub(super) fn refuse(
        &self,
        limit: Limit,
        (route, request, client): (&Route, &RequestHeader, &Client),
    ) -> RefuseReason {
        route.totals.limits().refuse(limit);
        let (name, reason) = (&route.name, limit.as_str());
        // Behind the fields, so that all clients share one limit on lines.
        match client.address {
            Some(client) => log::warn!(
                "stream refused: side=internal route={name} reason={reason}: {}; client {}",
                remedy(limit),
                client.ip()
            ),
            None => log::warn!("stream refused: side=internal route={name} reason={reason}: {}", remedy(limit)),
        }
        RefuseReason::Limited(limit, self.answer.answer(request, fastrand::f64()))
    }
}

/// What an operator can do about a limit that is hit.
fn remedy(limit: Limit) -> &'static str {
    match limit {
        Limit::All => "limits.streams is reached",
        Limit::Descriptors => "descriptors are nearly used up; raise the limit (ulimit -n, LimitNOFILE=)",
        Limit::Streams => "limits.streams of the route is reached",
        Limit::StreamsPerClient => "the client has as many streams as limits.streams_per_client allows",
        Limit::OpeningRate => "streams open faster than limits.opening_rate allows",
        Limit::OpeningRatePerClient => "the client opens streams faster than limits.opening_rate_per_client allows",
    }
}

impl ClientKey {
    fn identify<'a>(&self, request: &'a RequestHeader, client: &Client) -> Identity<'a> {
        let name = match self {
            Self::Address => None,
            Self::Header(name) if client.via_trusted_proxy => {
                request.headers.get(name.as_str()).map(|value| value.as_bytes())
            }
            Self::Header(_) => None,
            Self::Cookie(name) => cookie(request, name.as_bytes()),
            Self::Query(name) => argument(request, name.as_bytes()),
        };
        match (name.filter(|name| !name.is_empty()), client.address.map(|address| address.ip().to_canonical())) {
            (Some(name), _) => Identity::Named(name),
            (None, Some(IpAddr::V4(address))) => Identity::V4(address.octets()),
            (None, Some(IpAddr::V6(address))) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Identity::V6([a, b, c, d, e, f, g, h])
            }
            (None, None) => Identity::Unknown,
        }
    }
}

/// The value of a cookie (RFC 6265 §4.2.1), the first one of its name.
fn cookie<'a>(request: &'a RequestHeader, name: &[u8]) -> Option<&'a [u8]> {
    let fields = request.headers.get_all(header::COOKIE).iter();
    let pairs = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    value_of(pairs.map(<[u8]>::trim_ascii), name)
}

/// The value of an argument of the query, the first one of its name, not decoded.
fn argument<'a>(request: &'a RequestHeader, name: &[u8]) -> Option<&'a [u8]> {
    let query = request.uri.query()?;
    value_of(query.as_bytes().split(|byte| *byte == b'&'), name)
}

fn value_of<'a>(mut pairs: impl Iterator<Item = &'a [u8]>, name: &[u8]) -> Option<&'a [u8]> {
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: &str = "Cookie: a=1; session=s1; session=s2; xsession=no";

    #[test]
    fn clients_are_told_apart_by_what_the_route_names_and_otherwise_by_address() {
        let header = || ClientKey::Header("x-tenant".to_owned());
        let cookie = || ClientKey::Cookie("session".to_owned());
        let query = || ClientKey::Query("user".to_owned());
        let v4 = Identity::V4([192, 0, 2, 7]);
        let v6 = Identity::V6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 2]);
        let named = |name: &'static str| Identity::Named(name.as_bytes());
        let cases = [
            (ClientKey::Address, "192.0.2.7:1", false, "/", COOKIE, &v4),
            (ClientKey::Address, "[::ffff:192.0.2.7]:1", false, "/", COOKIE, &v4),
            (ClientKey::Address, "[2001:db8:1:2::7]:1", false, "/", COOKIE, &v6),
            (ClientKey::Address, "[2001:db8:1:2:ffff::8]:1", true, "/", COOKIE, &v6),
            (ClientKey::Address, "", false, "/", COOKIE, &Identity::Unknown),
            (header(), "192.0.2.7:1", true, "/", "X-Tenant: t", &named("t")),
            (header(), "192.0.2.7:1", false, "/", "X-Tenant: t", &v4),
            (header(), "192.0.2.7:1", true, "/", "X-Tenant: ", &v4),
            (header(), "192.0.2.7:1", true, "/", "X-Other: t", &v4),
            (cookie(), "192.0.2.7:1", false, "/", COOKIE, &named("s1")),
            (cookie(), "192.0.2.7:1", false, "/", "Cookie: xsession=no; session=", &v4),
            (query(), "192.0.2.7:1", false, "/e?xuser=no&user=u%201&user=2", COOKIE, &named("u%201")),
            (query(), "192.0.2.7:1", false, "/e?user", COOKIE, &v4),
            (query(), "192.0.2.7:1", false, "/user=2", COOKIE, &v4),
        ];
        for (key, address, via_trusted_proxy, target, field, expected) in cases {
            let mut request = RequestHeader::build("GET", target.as_bytes(), None).expect("request");
            let (name, value) = field.split_once(": ").expect("field");
            request.append_header(name.to_owned(), value).expect("header");
            let client = Client { address: address.parse().ok(), via_trusted_proxy };
            assert_eq!(key.identify(&request, &client), *expected, "{key:?} {address} {target} {field}");
        }
    }
}
