//! Behaviour that is the same on every request path: each test is written once and runs in every combination of
//! [`Setup`](crate::support::Setup).

mod drain;
mod ends;
mod heads;
mod heartbeats;
mod limits;
mod matching;
mod passthrough;
mod proxy_protocol;
mod reload;
mod request_heads;
mod routing;
mod steering;
mod timeouts;
mod unavailable;
