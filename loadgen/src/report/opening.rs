//! What opening streams took.

use serde::{Deserialize, Serialize};

/// What opening a number of streams took, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpeningFigures {
    /// How many.
    pub streams: u64,
    /// How long, by the clock; `None` when they were opened at a given pace.
    pub us: Option<u64>,
    /// CPU time of the target meanwhile.
    pub cpu_us: Option<u64>,
}

/// What opening a stream takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Streams opened per second; none when they were opened at a given pace.
    pub per_second: Option<f64>,
    /// CPU time of the target for each.
    pub cpu_us_per_stream: Option<f64>,
}

impl OpeningFigures {
    /// Per stream.
    #[must_use]
    pub fn per_stream(self) -> Opening {
        let streams = self.streams as f64;
        Opening {
            per_second: self.us.filter(|us| *us > 0).map(|us| streams * 1e6 / us as f64),
            cpu_us_per_stream: self.cpu_us.filter(|_| self.streams > 0).map(|us| us as f64 / streams),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_opening_has_a_cost_and_no_speed() {
        let burst = OpeningFigures { streams: 4000, us: Some(2_000_000), cpu_us: Some(400_000) };
        assert_eq!(burst.per_stream(), Opening { per_second: Some(2000.0), cpu_us_per_stream: Some(100.0) });
        let paced = OpeningFigures { us: None, ..burst };
        assert_eq!(paced.per_stream(), Opening { per_second: None, cpu_us_per_stream: Some(100.0) });
    }
}
