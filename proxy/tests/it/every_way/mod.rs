//! What holds whichever way a request takes: each behaviour is written once and run in every combination of
//! [`Setup`](crate::support::Setup).

mod drain;
mod ends;
mod heartbeats;
mod passthrough;
mod timeouts;
