//! What is said in bytes of HTTP/1.1 about running streams, once more on the driver that gives each a task. The rest is in
//! `every_way`.

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
