//! The event-stream format as a client reads it.

pub mod parser;
