//! Percentile distributions in the text format of HdrHistogram's plotter (`.hgrm`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::record::Record;

const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes one file per distribution that holds anything: `PREFIX.latency_us.hgrm` and so on.
///
/// # Errors
/// The file that could not be written.
pub fn write_files(prefix: &Path, record: &Record) -> Result<(), (PathBuf, std::io::Error)> {
    for (name, distribution) in record.distributions() {
        if distribution.histogram().is_empty() {
            continue;
        }
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!(".{name}.hgrm"));
        let path = PathBuf::from(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
        }
        std::fs::write(&path, text(distribution.histogram())).map_err(|error| (path, error))?;
    }
    Ok(())
}

fn text(histogram: &Histogram<u64>) -> String {
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to(), step.quantile_iterated_to());
        // Writing to a String cannot fail.
        let _ = if quantile < 1.0 {
            writeln!(out, "{value:>12.3} {quantile:>14.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(out, "{value:>12.3} {quantile:>14.12} {total:>10}")
        };
    }
    let _ = writeln!(out, "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]", histogram.mean(), histogram.stdev());
    let _ = writeln!(out, "#[Max     = {:>12.3}, Total count    = {:>12}]", histogram.max() as f64, histogram.len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_for_what_was_recorded() {
        let mut record = Record::default();
        for value in 1..=1000 {
            record.latency_us.record(value);
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        write_files(&directory.path().join("out/run"), &record).expect("written");
        let text = std::fs::read_to_string(directory.path().join("out/run.latency_us.hgrm")).expect("there");
        assert!(text.contains("0.500000000000        500"), "{text}");
        assert!(text.contains("Total count    =         1000"), "{text}");
        assert!(!directory.path().join("out/run.gap_us.hgrm").exists());
    }
}
