//! `routes[].on_unavailable`: what an `EventSource` gets whose upstream has failed.

use serde::Deserialize;

/// What an `EventSource` gets when the upstream fails before its response head.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailable {
    /// 502 or 504, after which it does not come back.
    #[default]
    Error,
    /// 200, an event stream with one `retry:` field, and its end.
    RetryLater,
}
