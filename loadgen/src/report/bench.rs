//! The result of `bench`: the reports of each suite, and what criterion has measured.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::compare::CompareReport;
use super::conditions::Conditions;
use super::knee::KneeReport;
use super::micro::Micro;
use crate::validity::Warning;

/// The `kind` of the document.
pub const KIND: &str = "bench";

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Identifies the document: [`KIND`].
    pub kind: String,
    /// Version of the document's schema, [`super::SCHEMA_VERSION`].
    pub version: u32,
    /// Under what conditions.
    pub conditions: Conditions,
    /// Whether it was only to see that it works.
    pub quick: bool,
    /// Whether Ctrl-C cut it short.
    pub interrupted: bool,
    /// Whether all suites came to a result that can be trusted.
    pub valid: bool,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
    /// In the order they were run.
    pub suites: Vec<SuiteReport>,
    /// What criterion has measured of the proxy's core.
    pub micro: Vec<Micro>,
}

/// One suite, or one part of it: some are measured several times, each time in another way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Which.
    pub name: Suite,
    /// The command line that measures the same alone.
    pub command: String,
    /// Why there is no result.
    pub error: Option<String>,
    /// What came of it.
    pub result: Option<SuiteResult>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// Memory, CPU and latency under an even flow of events.
    Staggered,
    /// The same when all streams get their events at once.
    Broadcast,
    /// How fast streams are opened.
    Opening,
    /// How many events are carried.
    Knee,
    /// Many streams, on several processes.
    ScaleOut,
    /// Memory when streams come and go.
    Churn,
    /// Memory when clients do not read.
    Stalled,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 without TLS.
    H2c,
}

/// The report of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SuiteResult {
    /// Of a comparison.
    Compare(Box<CompareReport>),
    /// Of a search for the highest rate.
    Knee(Box<KneeReport>),
}

impl Suite {
    /// All of them, in the order they are run.
    pub const ALL: [Self; 10] = [
        Self::Staggered,
        Self::Broadcast,
        Self::Opening,
        Self::Knee,
        Self::ScaleOut,
        Self::Churn,
        Self::Stalled,
        Self::Tls,
        Self::H2,
        Self::H2c,
    ];

    /// Its name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Staggered => "staggered",
            Self::Broadcast => "broadcast",
            Self::Opening => "opening",
            Self::Knee => "knee",
            Self::ScaleOut => "scale-out",
            Self::Churn => "churn",
            Self::Stalled => "stalled",
            Self::Tls => "tls",
            Self::H2 => "h2",
            Self::H2c => "h2c",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl SuiteResult {
    /// Whether it can be trusted.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Compare(report) => report.valid,
            Self::Knee(report) => report.valid,
        }
    }

    /// Whether Ctrl-C cut it short.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        match self {
            Self::Compare(report) => report.interrupted,
            Self::Knee(report) => report.interrupted,
        }
    }

    /// Warnings.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        match self {
            Self::Compare(report) => &report.warnings,
            Self::Knee(report) => &report.warnings,
        }
    }
}

impl SuiteReport {
    fn is_valid(&self) -> bool {
        self.result.as_ref().is_some_and(SuiteResult::is_valid)
    }
}

impl BenchReport {
    /// Sums up.
    #[must_use]
    pub fn new(
        conditions: Conditions,
        quick: bool,
        left_out: Vec<String>,
        suites: Vec<SuiteReport>,
        micro: Vec<Micro>,
    ) -> Self {
        let interrupted = suites.iter().any(|suite| suite.result.as_ref().is_some_and(SuiteResult::is_interrupted));
        let valid = suites.iter().all(SuiteReport::is_valid);
        let (kind, version) = (KIND.to_owned(), super::SCHEMA_VERSION);
        Self { kind, version, conditions, quick, interrupted, valid, left_out, suites, micro }
    }
}
