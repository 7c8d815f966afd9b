//! Load generator, built-in origin and side-by-side comparison for Server-Sent Events. The binary only parses and prints.

pub mod clock;
pub mod origin;
pub mod sse;
pub mod stamp;
pub mod wire;
