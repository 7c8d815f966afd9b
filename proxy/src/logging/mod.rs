//! The process's log on standard error: one line for each record, rate-limited, written by a separate thread.
//!
//! Logging never blocks: lines go through a bounded queue, and are dropped and counted when it is full. So a stuck
//! reader of standard error stalls neither a request nor a shutdown. The access log uses the same queue and writer. See
//! `docs/decisions/0007-a-log-that-never-waits.md`.

mod limiter;
mod line_file;
mod line_queue;
mod mask;
mod process_log;
mod record;

pub use line_queue::LineQueue;
pub use mask::Mask;
pub use process_log::ProcessLog;

pub(crate) use line_file::LineFile;
pub(crate) use line_queue::{Limits, Sink};
