//! One client of one stream: connect, request, read, judge. Lean enough to hold tens of thousands per process.

pub mod connect;
pub mod end;
pub mod meter;
pub mod stream;
