//! State that the streams of one origin thread share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::gate::Gates;
use super::timer::Timer;

/// What the streams of one thread share.
#[derive(Debug)]
pub(super) struct ThreadContext {
    pub(super) timer: Rc<Timer>,
    pub(super) gates: Arc<Gates>,
    pub(super) scratch: RefCell<Scratch>,
    /// Streams begun, of all threads together.
    pub(super) streams: Arc<AtomicU64>,
}

/// Buffers that are only used between two waits, so that one pair serves all streams.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) content: Vec<u8>,
    pub(super) wire: Vec<u8>,
}
