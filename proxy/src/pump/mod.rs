//! Drivers: they move bytes and wait, the core in [`crate::stream`] decides.
//!
//! A driver holds two transports and one [`crate::stream::Core`] per stream, and bytes only while they are in flight.

mod account;
mod clock;
mod registry;
mod scratch;
mod task;
mod transport;

pub use account::{Ended, Label, Observer, Route, Totals};
pub use registry::Registry;
pub use task::{Start, spawn};
pub use transport::Transport;
