//! The rules of one proxied stream, as a pure state machine: bytes, times and events go in, bytes to write and
//! deadlines come out. It opens no socket and reads no clock; the drivers in [`crate::driver`] do.

mod core;
#[cfg(test)]
mod core_tests;
mod deadlines;
mod end;
mod policy;

pub use self::core::{Core, Counts, Framing, Opening, Progress};
pub use self::deadlines::{Deadline, Deadlines, Millis};
pub use self::end::{EndReason, Side};
pub use self::policy::{HeartbeatPolicy, KeepAlive, Policy, Timeouts};
