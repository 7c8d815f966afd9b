//! The rules of one proxied stream, as a pure state machine: bytes, times and events go in, bytes to write and
//! deadlines come out. It opens no socket and reads no clock; the drivers in [`crate::driver`] do.

mod deadlines;
mod end;
mod pair;
#[cfg(test)]
mod pair_end_tests;
#[cfg(test)]
mod pair_random_tests;
#[cfg(test)]
mod pair_tests;
mod policy;

pub use self::deadlines::{Deadline, Deadlines, Millis};
pub use self::end::{EndReason, Side};
pub use self::pair::{Counts, Framing, Opening, Pair, Progress};
pub use self::policy::{HeartbeatPolicy, KeepAlive, Policy, Timeouts};
