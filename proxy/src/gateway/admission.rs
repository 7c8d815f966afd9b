//! The reactors' side of the gateway.

use std::sync::Arc;

use pingora::http::RequestHeader;

use super::Gateway;
use crate::headers;
use crate::takeover::{Admission, ClientRules, Decision, InFlight};

impl Admission for Gateway {
    fn admit(&self, request: &mut RequestHeader) -> Decision {
        headers::normalize_request(request);
        self.router.decide(request)
    }

    fn client_rules(&self) -> Arc<ClientRules> {
        self.router.client_rules()
    }

    fn answered(&self, status: u16) {
        self.metrics.request(status);
    }

    fn dropped_fields(&self, count: usize) {
        self.metrics.dropped_fields(count);
    }

    fn in_flight(&self) -> InFlight {
        self.router.enter()
    }
}
