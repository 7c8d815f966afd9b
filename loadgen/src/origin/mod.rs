//! The built-in backend: streams of stamped events, and pages like those of a usual backend.

mod event;
mod gate;
mod pages;
mod query;
mod request;
mod schedule;
mod server;
mod spec;
mod stream;
mod thread_context;
mod timer;

pub use query::SpecError;
pub use server::{Origin, OriginConfig, OriginError};
pub use spec::{Ending, Eol, Mode, Pieces, Schedule, StreamSpec, TransferFraming};
