//! The built-in backend: streams whose every event says when it was due, and the pages an existing backend also has.

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
