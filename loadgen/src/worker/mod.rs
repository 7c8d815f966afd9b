//! A worker: one thread, one runtime, its own record. It receives commands and sends reports.

mod drive;
mod job;
mod prepared;
mod process;

pub use drive::run;
pub use job::{Command, Destination, Job, Report, Snapshot};
pub use prepared::{PrepareError, Prepared};
pub use process::{ServeError, serve};
