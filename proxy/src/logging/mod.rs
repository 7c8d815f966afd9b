//! The process's log on standard error: one line for each record, limited in rate, written by a thread of its own.
//!
//! Whoever logs never waits: lines go through a bounded queue, and a line that finds it full is dropped and counted. So a
//! reader of standard error that has stopped reading stalls neither a request nor a shutdown. The access log writes its lines
//! through the same queue and the same writer. See `docs/decisions/0007-a-log-that-never-waits.md`.

mod limiter;
mod line_file;
mod line_queue;
mod process_log;
mod record;

pub use line_queue::LineQueue;
pub use process_log::ProcessLog;

pub(crate) use line_file::LineFile;
pub(crate) use line_queue::{Limits, Sink};
