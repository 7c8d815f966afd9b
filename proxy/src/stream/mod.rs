//! The rules of one proxied stream, as a pure state machine: bytes, times and events go in, bytes to write and
//! deadlines come out. It opens no socket and reads no clock; the drivers in [`crate::driver`] do.

mod drain;
mod end;
mod millis;
mod pair;
#[cfg(test)]
mod pair_change_tests;
#[cfg(test)]
mod pair_end_tests;
#[cfg(test)]
mod pair_random_tests;
#[cfg(test)]
mod pair_tests;
mod policy;
mod sink;
#[cfg(test)]
mod sink_tests;
mod source;
#[cfg(test)]
mod source_tests;

pub use self::drain::{Drain, RetryRange};
pub use self::end::{EndReason, Side};
pub use self::millis::Millis;
pub use self::pair::{Counts, Opening, Pair, Progress};
pub use self::policy::{HeartbeatPolicy, KeepAlive, Policy, Timeouts};
pub use self::sink::Framing;
