//! What the proxy knows of the event-stream format: where an event ends, and what a heartbeat looks like.
//!
//! Pure: bytes in, answers out. Decoding events into fields is left to clients; the proxy never needs it.

mod boundary;
mod heartbeat;

pub(crate) use boundary::BOM;
pub use boundary::{Boundary, Scanned};
pub use heartbeat::{Heartbeat, HeartbeatError, HeartbeatStyle};
