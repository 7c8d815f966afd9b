//! Drivers: they move bytes and wait, the core in [`crate::stream`] decides.
//!
//! A driver holds two connections and one [`crate::stream::Core`] per stream, and bytes only while they are in flight.
//! There are two, with one set of rules in `drive`: [`parked`](self) for plain TCP on both sides, which keeps nothing of a
//! silent stream but its state in a table, and a task per stream for everything else.

mod account;
mod alarm;
mod clock;
mod drive;
mod label;
mod parked;
mod reactors;
mod registry;
mod scratch;
mod socket;
mod task;
mod transport;

pub use account::{Ended, Observer, Route, Totals};
pub use label::Label;
pub use reactors::{Driver, Pumps, reactor_threads};
pub use registry::Registry;
pub use transport::{Transport, bound_send_queue};

use std::sync::Arc;

use crate::stream::Opening;

/// What a driver needs to run a stream whose heads have passed.
#[derive(Debug)]
pub struct Start {
    /// How the two bodies are framed and what rules hold.
    pub opening: Opening,
    /// The client's connection, its response head written.
    pub client: Transport,
    /// The upstream's connection, its response head read.
    pub upstream: Transport,
    /// Body bytes that came with the upstream's head.
    pub leftover: Vec<u8>,
    /// Where it is counted.
    pub route: Arc<Route>,
    /// For the log.
    pub label: Label,
}
