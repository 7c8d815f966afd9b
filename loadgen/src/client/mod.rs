//! One client of one stream: connect, request, read, judge. Lean enough to hold tens of thousands per process.

pub mod connect;
pub mod end;
pub mod http1;
pub mod http2;
mod io;
pub mod meter;
mod shared;
pub mod stream;
pub mod tls;

pub use io::Io;
pub use shared::Shared;
