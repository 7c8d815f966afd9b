//! Results for people and for programs.

pub mod bench;
pub mod compare;
pub mod compare_table;
pub mod conditions;
pub mod figures;
pub mod hgrm;
pub mod knee;
pub mod knee_table;
pub mod markdown;
pub mod merge;
pub mod micro;
pub mod opening;
pub mod part;
pub mod percentiles;
pub mod progress;
pub mod ratios;
pub mod round;
pub mod run;
pub mod saved;
pub mod threshold;
pub mod units;

/// Version of the JSON documents. It rises when a field changes its meaning or is removed, not when one is added.
pub const SCHEMA_VERSION: u32 = 1;
