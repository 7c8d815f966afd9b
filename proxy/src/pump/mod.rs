//! Drivers: they move bytes and wait, the core in [`crate::stream`] decides.
//!
//! A driver holds two connections and one [`crate::stream::Core`] per stream, and bytes only while they are in flight.
//! There are two, with one set of rules in `drive`: [`parked`](self) for plain TCP on both sides, which keeps nothing of a
//! silent stream but its state in a table, and a task per stream for everything else. The threads of the first also accept
//! plain connections (`doors`), and keep each in the same table until it is a stream or goes on elsewhere (`candidate`).

mod account;
mod alarm;
mod candidate;
mod clock;
mod doors;
mod drive;
mod edge;
mod label;
mod parked;
mod place;
mod reactors;
mod registry;
mod rewound;
mod scratch;
mod socket;
mod task;
mod timetable;
mod transport;

pub use account::{Ended, Observer, Route, Totals};
pub use label::Label;
pub use reactors::{Driver, Pumps, reactor_threads};
pub use registry::Registry;
pub use transport::Transport;

pub(crate) use candidate::{Candidate, Reception, Step};
pub(crate) use reactors::Entrance;
pub(crate) use rewound::Rewound;
pub(crate) use socket::{Socket, not_now};
pub(crate) use transport::bound_send_queue;

use std::sync::Arc;

use crate::stream::Opening;

/// What a driver needs to know of a stream whose response head has been read.
#[derive(Debug)]
pub struct Start {
    /// How the two bodies are framed and what rules hold.
    pub opening: Opening,
    /// Bytes for the client that go before the body: its response head, where that has not been written.
    pub unsent: Vec<u8>,
    /// Body bytes that came with the upstream's head.
    pub leftover: Vec<u8>,
    /// Where it is counted.
    pub route: Arc<Route>,
    /// For the log.
    pub label: Label,
}
