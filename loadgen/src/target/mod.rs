//! The programs a comparison measures: started (or found running), watched from outside, and ended.

mod address;
pub mod cgroup;
mod config_file;
mod error;
pub mod gauge;
pub mod haproxy;
pub mod kernel;
mod listener_spec;
pub mod nginx;
mod origins;
pub mod parent_death;
mod probe;
mod process;
mod proxy;
mod stack;
mod subject;
pub mod tree;

pub use error::TargetError;
pub use origins::OriginSetup;
pub use probe::get;
pub use process::Running;
pub use stack::{Programs, Stack, StackConfig, Target, UnknownTarget};
pub use subject::{Service, Subject};
