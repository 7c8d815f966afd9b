//! The reactor: plain TCP on both sides, one thread and one table for thousands of streams.
//!
//! It handles sockets, slots and timers. A [`ConnectionHandler`] implements the protocol before a stream begins.

mod edge;
mod handle;
mod handler;
mod listeners;
mod slot;
mod table;
mod timer_fd;
mod timer_queue;

pub(super) use handle::{Command, Handle, NewStream, ReactorListener};
pub(crate) use handler::{ConnectionHandler, Pending, Step};
pub(crate) use listeners::is_of_the_client;
pub(super) use table::Reactor;
