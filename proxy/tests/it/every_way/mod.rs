//! Behaviour that is the same on every request path: each test is written once and runs in every combination of
//! [`Setup`](crate::support::Setup).

mod drain;
mod ends;
mod heads;
mod heartbeats;
mod matching;
mod passthrough;
mod reload;
mod routing;
mod steering;
mod timeouts;
mod unavailable;
