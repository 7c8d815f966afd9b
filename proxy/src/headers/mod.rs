//! Header policy: what the proxy reads in request and response heads, and what it changes in them.
//!
//! Everything that is not named here passes unchanged: `Last-Event-ID`, `traceparent`, cookies, CORS, authorization.

mod control;
mod fields;
mod forwarded;
mod request;
mod response;
mod rules;
mod variables;
mod via;

pub use control::{StreamControl, stream_control, strip_request_control, strip_response_control};
pub use forwarded::{Client, TrustedProxies, set_forwarded, shown_address};
pub use request::{
    accepts_event_stream, add_via, asks_upgrade, check_http2_request, drop_ignored_upgrade, host_name, is_repeatable,
    masked_target, normalize_request, page_request, stream_request,
};
pub use response::{
    FramingError, PageFraming, has_no_body, interim_response, is_event_stream, is_identity, keeps_connection,
    page_response, response_body, stream_response, transfer_codings, upgrade_response, write_response,
};
pub use rules::{FieldChanges, HeadRules, PathChange, Reserved, reserved};
pub use variables::Value;
pub use via::{PSEUDONYM, is_loop};

pub use fields::strip_response;
