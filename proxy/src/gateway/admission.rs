//! The reactors' side of the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::http::RequestHeader;

use super::Gateway;
use crate::headers::{self, Client};
use crate::routing::Answered;
use crate::stream::Millis;
use crate::takeover::{Admission, ClientRules, Decision, InFlight, report_violation};
use crate::wire::proxy_protocol::Violation;

impl Admission for Gateway {
    fn admit(&self, request: &mut RequestHeader, client: &Client, now: Millis) -> Decision {
        headers::normalize_request(request);
        self.router.decide(request, client, now)
    }

    fn client_rules(&self) -> Arc<ClientRules> {
        self.router.client_rules()
    }

    fn answered(&self, status: u16) {
        self.metrics.request(status);
    }

    fn refused(&self, reason: &'static str, request: &RequestHeader, client: &Client, (status, bytes): (u16, usize)) {
        self.metrics.refused(reason);
        self.metrics.request(status);
        let Some(observer) = &self.observer else { return };
        observer.answered(&Answered {
            route: "",
            client: client.address,
            method: request.method.as_str(),
            target: &String::from_utf8_lossy(request.raw_path()),
            status,
            bytes: bytes as u64,
            duration: Duration::ZERO,
        });
    }

    fn violated(&self, violation: Violation, peer: SocketAddr) {
        self.metrics.closed_connection(violation.as_str());
        report_violation(violation, peer);
    }

    fn dropped_fields(&self, count: usize) {
        self.metrics.dropped_fields(count);
    }

    fn in_flight(&self) -> InFlight {
        self.router.enter()
    }
}
