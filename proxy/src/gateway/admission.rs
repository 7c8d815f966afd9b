//! The reactors' side of the gateway.

use std::net::SocketAddr;

use pingora::http::RequestHeader;

use super::Gateway;
use crate::headers::{self, Client, TrustedProxies};
use crate::stream::Millis;
use crate::takeover::{Admission, Decision, InFlight, report_violation};
use crate::wire::proxy_protocol::Violation;

impl Admission for Gateway {
    fn admit(&self, request: &mut RequestHeader, client: &Client, now: Millis) -> Decision {
        headers::normalize_request(request);
        self.router.decide(request, client, now)
    }

    fn trusted_proxies(&self) -> &TrustedProxies {
        self.takeover.trusted_proxies()
    }

    fn answered(&self, status: u16) {
        self.metrics.request(status);
    }

    fn refused(&self, reason: &'static str, status: u16) {
        self.metrics.refused(reason);
        self.metrics.request(status);
    }

    fn violated(&self, violation: Violation, peer: SocketAddr) {
        self.metrics.closed_connection(violation.as_str());
        report_violation(violation, Some(peer));
    }

    fn dropped_fields(&self, count: usize) {
        self.metrics.dropped_fields(count);
    }

    fn in_flight(&self) -> InFlight {
        self.router.enter()
    }
}
