//! The programs a comparison measures: started (or found running), watched from outside, and ended.

mod address;
pub mod cgroup;
mod config_file;
mod entrance;
mod error;
pub mod gauge;
pub mod haproxy;
pub mod kernel;
pub mod nginx;
mod origins;
mod probe;
mod process;
mod proxy;
mod stack;
mod subject;
pub mod tether;
pub mod tree;

pub use error::TargetError;
pub use origins::OriginSetup;
pub use probe::get;
pub use process::Running;
pub use stack::{Programs, Stack, StackConfig, Target, UnknownTarget};
pub use subject::{Service, Subject};
