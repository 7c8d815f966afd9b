//! Results for people and for programs.

pub mod compare;
mod compare_table;
pub mod conditions;
pub mod figures;
pub mod hgrm;
pub mod progress;
pub mod run;
pub mod threshold;
pub mod units;
