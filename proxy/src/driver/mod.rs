//! Drivers do the I/O and the waiting of streams; [`crate::stream`] decides.
//!
//! A driver holds two connections and one [`crate::stream::Pair`] per stream, and bytes only while they are in flight.
//! There are two, which share the rules in `drive`. The reactor runs streams that are plain TCP on both sides, and
//! keeps only an entry in a table for a silent stream. Every other stream gets a task. The reactor also accepts plain
//! connections and keeps each in the same table until it is a stream or is handed off.

mod attached;
pub(crate) mod clock;
pub(crate) mod descriptors;
mod drive;
mod drivers;
mod endpoint;
mod gaps;
mod observer;
mod permit;
mod reactor;
mod registry;
mod scratch;
mod socket;
mod start;
mod stream_info;
mod task;
mod transport;
mod visit;

pub use drivers::{Driver, Drivers, reactor_threads};
pub use endpoint::{Endpoint, EndpointState};
pub use gaps::EventGaps;
pub use observer::{Ended, Observer, Route, Totals};
pub use permit::{MostStreams, StreamCounts, StreamPermit};
pub use registry::StreamRegistry;
pub use start::Start;
pub use stream_info::StreamInfo;
pub use transport::Transport;
pub use visit::{RunningStream, StreamId, Visitor};

pub(crate) use attached::Attached;
pub(crate) use drivers::{BoundListener, OpenListener};
pub(crate) use reactor::{ConnectionHandler, Pending, Step, is_of_the_client};
pub(crate) use scratch::with_read_buffer;
pub(crate) use socket::{Socket, has_readable_bytes, would_block};
pub(crate) use task::{PendingReset, poll_send};
pub(crate) use transport::{bound_page_queue, bound_send_queue, canonical, keep_alive, reset_stream};
