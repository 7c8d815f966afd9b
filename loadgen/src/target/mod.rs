//! The programs a comparison measures: started, watched from outside, and ended.

mod address;
mod error;
pub mod kernel;
pub mod nginx;
mod probe;
mod process;
mod proxy;
mod stack;
pub mod tether;
pub mod tree;

pub use error::TargetError;
pub use probe::get;
pub use process::Running;
pub use stack::{Programs, Stack, StackConfig, Target, UnknownTarget, start_origin};
