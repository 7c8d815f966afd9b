//! The event-stream format, as far as the proxy needs it: event boundaries and heartbeats.
//!
//! Pure. Does not parse events into fields.

mod boundary;
mod heartbeat;

pub(crate) use boundary::BOM;
pub use boundary::{Boundary, Scanned};
pub use heartbeat::{Heartbeat, HeartbeatError, HeartbeatStyle};
