//! Behaviour that is the same on every request path: each test is written once and runs in every combination of
//! [`Setup`](crate::support::Setup).

mod drain;
mod ends;
mod heads;
mod heartbeats;
mod matching;
mod passthrough;
mod routing;
mod timeouts;
mod unavailable;
