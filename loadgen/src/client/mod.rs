//! The client of one stream: connects, sends the request, reads and checks events. One process holds tens of thousands.

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
