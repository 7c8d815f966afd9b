//! Load generator, built-in origin and side-by-side comparison for Server-Sent Events. The binary only parses and prints.

pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod distribution;
pub mod error;
pub mod fleet;
pub mod integrity;
pub mod limits;
pub mod origin;
pub mod plan;
pub mod protocol;
pub mod record;
pub mod report;
pub mod sse;
pub mod stamp;
pub mod target;
pub mod url;
pub mod validity;
pub mod wire;
pub mod worker;
