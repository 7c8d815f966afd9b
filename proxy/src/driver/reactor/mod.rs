//! The reactor: plain TCP on both sides, one thread and one table for thousands of streams.
//!
//! It knows sockets, slots and timers. What is said on a connection before a stream begins is up to a [`ConnectionHandler`].

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
pub(super) use table::Reactor;
