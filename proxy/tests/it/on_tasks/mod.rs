//! The HTTP/1.1 tests of running streams on the task driver. Other behaviour is in `every_way`.

#[path = "../conversations.rs"]
mod conversations;
#[path = "../drain.rs"]
mod drain;
#[path = "../ends.rs"]
mod ends;
#[path = "../non_streams.rs"]
mod non_streams;
#[path = "../passthrough.rs"]
mod passthrough;
#[path = "../timeouts.rs"]
mod timeouts;
