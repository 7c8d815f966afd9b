//! Reads the estimates that criterion leaves in its directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One benchmark of criterion's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Micro {
    /// Its group.
    pub group: String,
    /// Its parameter, if it has one.
    pub parameter: Option<String>,
    /// Nanoseconds per iteration, the median.
    pub nanoseconds: f64,
    /// Lower end of the confidence interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
    /// Bytes per iteration, if that is its throughput.
    pub bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// What criterion writes about a benchmark besides its estimates.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    value_str: Option<String>,
    throughput: Option<serde_json::Value>,
}

/// The latest estimates below `directory`, by group and rising parameter; what is not understood is left out.
#[must_use]
pub fn read(directory: &Path) -> Vec<Micro> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        let children: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.extend(children.iter().filter(|child| child.ends_with("new")).filter_map(|child| read_one(child)));
        open.extend(children);
    }
    let order = |micro: &Micro| {
        let number = micro.parameter.as_ref().and_then(|parameter| parameter.parse::<u64>().ok());
        (micro.group.clone(), number, micro.parameter.clone())
    };
    found.sort_by_key(order);
    found
}

fn read_one(directory: &Path) -> Option<Micro> {
    let file = |name: &str| std::fs::read(directory.join(name)).ok();
    let Estimates { median } = serde_json::from_slice(&file("estimates.json")?).ok()?;
    let benchmark: Benchmark = serde_json::from_slice(&file("benchmark.json")?).ok()?;
    Some(Micro {
        group: benchmark.group_id,
        parameter: benchmark.value_str,
        nanoseconds: median.point_estimate,
        low: median.confidence_interval.lower_bound,
        high: median.confidence_interval.upper_bound,
        bytes: benchmark.throughput.and_then(|throughput| throughput.get("Bytes")?.as_u64()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, group: &str, parameter: &str, throughput: &str, median: f64) {
        let new = directory.join(group).join(parameter).join("new");
        std::fs::create_dir_all(&new).expect("made");
        let estimate = format!(
            r#"{{"median": {{"point_estimate": {median}, "confidence_interval": {{"confidence_level": 0.95, "lower_bound": 1.0, "upper_bound": 9.0}}, "standard_error": 0.1}}}}"#
        );
        std::fs::write(new.join("estimates.json"), estimate).expect("written");
        let benchmark = format!(
            r#"{{"group_id": "{group}", "function_id": null, "value_str": "{parameter}", "throughput": {throughput}, "full_id": "x", "directory_name": "x", "title": "x"}}"#
        );
        std::fs::write(new.join("benchmark.json"), benchmark).expect("written");
    }

    #[test]
    fn estimates_are_found_and_ordered_by_size() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), "scan", "1000", r#"{"Bytes": 1034}"#, 50.0);
        write(directory.path(), "scan", "100", r#"{"Bytes": 134}"#, 10.0);
        write(directory.path(), "pass", "100", r#"{"Elements": 1}"#, 70.0);
        std::fs::create_dir_all(directory.path().join("scan/100/base/new")).expect("a directory without estimates");
        let found = read(directory.path());
        let summaries: Vec<_> =
            found.iter().map(|micro| (micro.group.as_str(), micro.nanoseconds, micro.bytes)).collect();
        assert_eq!(summaries, [("pass", 70.0, None), ("scan", 10.0, Some(134)), ("scan", 50.0, Some(1034))]);
        assert_eq!((found[0].low, found[0].high), (1.0, 9.0));
        assert!(read(Path::new("/no/such/directory")).is_empty());
    }
}
