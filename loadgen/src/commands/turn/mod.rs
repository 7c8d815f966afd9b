//! One target's turn: started anew, loaded step by step, read from outside at every step, and ended.

mod load;
mod measure;
pub(super) mod programs;
mod session;
mod stalled;
mod start;

pub(super) use self::load::{Load, Source, Turn};
pub(super) use self::start::{find_targets, started};
