//! What concerns running streams, once more on the driver that gives each a task.

#[path = "../conversations.rs"]
mod conversations;
#[path = "../drain.rs"]
mod drain;
#[path = "../ends.rs"]
mod ends;
#[path = "../heartbeats.rs"]
mod heartbeats;
#[path = "../non_streams.rs"]
mod non_streams;
#[path = "../passthrough.rs"]
mod passthrough;
#[path = "../timeouts.rs"]
mod timeouts;
