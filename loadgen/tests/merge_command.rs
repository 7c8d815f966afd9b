//! `sse-loadgen merge` and `report`: exact sums of saved runs, and what is refused.

mod support;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use sse_loadgen::record::Record;
use sse_loadgen::report::conditions::Conditions;
use sse_loadgen::report::merge::merge;
use sse_loadgen::report::run::{RUN, RunReport, summaries};
use sse_loadgen::report::{SCHEMA_VERSION, saved};
use support::{origin, program, text};

const START_US: u64 = 1_700_000_000_000_000;

fn record(latencies: &[u64]) -> Record {
    let mut record = Record::default();
    for latency in latencies {
        record.latency_us.record(*latency);
        record.ttfb_us.record_between(latency / 2, latency / 3);
    }
    let count = latencies.len() as u64;
    record.counts.attempted = count;
    record.counts.streams = count;
    record.counts.open = count;
    record.counts.events = count * 3;
    record.counts.stamped = count * 3;
    record.ends.insert("reset".to_owned(), count);
    record.integrity.duplicated = count / 2;
    record
}

/// A run of ten seconds that began `offset_s` after the first.
fn report(record: &Record, run_id: &str, offset_s: u64) -> RunReport {
    RunReport {
        kind: RUN.to_owned(),
        version: SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        conditions: Conditions { started_us: START_US + offset_s * 1_000_000, ..Conditions::read(1024) },
        urls: vec!["http://proxy:8080/events".to_owned()],
        connections: record.counts.open,
        seconds: 10.0,
        interrupted: false,
        valid: true,
        counts: record.counts,
        integrity: record.integrity,
        ends: record.ends.clone(),
        stalled: 0,
        worker_cpu_share: None,
        distributions: summaries(record),
        warnings: Vec::new(),
        parts: Vec::new(),
    }
}

fn named(reports: Vec<RunReport>) -> Vec<(PathBuf, RunReport)> {
    reports.into_iter().enumerate().map(|(number, report)| (format!("{number}.json").into(), report)).collect()
}

/// Through text and back, as between two programs.
fn saved_and_read(report: &RunReport) -> RunReport {
    serde_json::from_str(&serde_json::to_string(report).expect("serializable")).expect("readable")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_merge_of_the_parts_is_the_whole(
        parts in prop::collection::vec(prop::collection::vec(0_u64..8_000_000_000, 0..40), 1..6),
    ) {
        let whole = record(&parts.concat());
        let reports = parts.iter().enumerate().map(|(number, part)| saved_and_read(&report(&record(part), &number.to_string(), 0)));
        let (merged, merged_record) = merge(&named(reports.collect()), "m".to_owned(), Conditions::read(1024)).expect("merged");
        prop_assert_eq!(&merged_record.latency_us, &whole.latency_us);
        prop_assert_eq!(&merged_record.ttfb_us, &whole.ttfb_us);
        prop_assert_eq!(merged.counts, whole.counts);
        prop_assert_eq!(merged.ends.get("reset"), whole.ends.get("reset"));
        prop_assert_eq!(merged.distributions, summaries(&whole));
        prop_assert_eq!(merged.connections, whole.counts.open);
    }
}

#[test]
fn percentiles_are_those_of_all_values_and_not_an_average() {
    // 990 quick events in one run, 10 slow ones in another: their p50 are 1 ms and 1 s, and that of all is 1 ms.
    let (quick, slow) = (record(&[1_000; 990]), record(&[1_000_000; 10]));
    let reports = named(vec![report(&quick, "a", 0), report(&slow, "b", 0)]);
    let (merged, _) = merge(&reports, "m".to_owned(), Conditions::read(1024)).expect("merged");
    let latency = &merged.distributions["latency_us"];
    assert_eq!((latency.p50, latency.p99), (Some(1_000), Some(1_000)));
    assert!(latency.max.is_some_and(|max| max >= 1_000_000));
    assert_eq!(latency.count, 1_000);
}

#[test]
fn runs_that_did_not_overlap_are_no_result() {
    let of = |offset_s| {
        let one = record(&[5]);
        let reports = named(vec![report(&one, "a", 0), report(&one, "b", offset_s)]);
        merge(&reports, "m".to_owned(), Conditions::read(1024)).expect("merged").0
    };
    let (together, partly, apart) = (of(1), of(6), of(25));
    assert!(together.valid && together.warnings.is_empty(), "{:?}", together.warnings);
    assert_eq!(together.seconds, 11.0);
    assert!(partly.valid && partly.warnings[0].cause.contains("4.0s only"), "{:?}", partly.warnings);
    assert!(
        !apart.valid && apart.warnings[0].cause.contains("1.json began 15.0s after 0.json"),
        "{:?}",
        apart.warnings
    );
}

#[test]
fn doubts_of_a_part_are_doubts_of_the_whole() {
    let mut doubtful = report(&record(&[5]), "b", 0);
    doubtful.valid = false;
    let reports = named(vec![report(&record(&[5]), "a", 0), doubtful]);
    let (merged, _) = merge(&reports, "m".to_owned(), Conditions::read(1024)).expect("merged");
    assert!(!merged.valid);
}

fn write(directory: &Path, name: &str, document: &impl serde::Serialize) -> String {
    let path = directory.join(name);
    std::fs::write(&path, serde_json::to_string(document).expect("serializable")).expect("written");
    path.display().to_string()
}

#[test]
fn what_cannot_be_added_is_refused_and_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let good = report(&record(&[5, 6]), "a", 0);
    let changed = |key: &str, value: Value| {
        let mut document = serde_json::to_value(&good).expect("serializable");
        document["run_id"] = "other".into();
        *document.pointer_mut(key).expect("the key exists") = value;
        document
    };
    let good_file = write(directory.path(), "good.json", &good);
    // 1 to 1,000,000 with two significant digits: a histogram of other buckets.
    let mut other = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1_000_000, 2).expect("valid");
    other.record(7).expect("fits");
    let mut bytes = Vec::new();
    hdrhistogram::serialization::Serializer::serialize(
        &mut hdrhistogram::serialization::V2DeflateSerializer::new(),
        &other,
        &mut bytes,
    )
    .expect("written");
    let other = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    for (name, document, expected) in [
        ("buckets.json", changed("/distributions/latency_us/hdr_v2", other.into()), "significant digits"),
        ("damaged.json", changed("/distributions/ttfb_us/hdr_v2", "AAAA".into()), "distributions.ttfb_us"),
        ("kind.json", changed("/kind", "merge".into()), "`merge`; expected run"),
        ("unknown.json", changed("/kind", "walk".into()), "`walk`"),
        ("version.json", changed("/version", 99.into()), "version 99"),
        ("part.json", changed("/counts", Value::Null), "not a report"),
        ("foreign.json", serde_json::json!({"some": "thing"}), "not a report"),
        ("copy.json", serde_json::to_value(&good).expect("serializable"), "counted twice"),
    ] {
        let file = write(directory.path(), name, &document);
        let output = program().args(["merge", &good_file, &file]).output().expect("the program starts");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{name}: {message}");
        assert!(message.contains(expected) && message.contains(name), "{name}: {message}");
        assert!(output.stdout.is_empty(), "{name}");
    }
    let output = program().args(["merge", &good_file, "/no/such/file"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    let output = program().args(["merge", &good_file, &good_file]).output().expect("the program starts");
    assert!(text(&output.stderr).contains("counted twice"), "{}", text(&output.stderr));
}

#[test]
fn real_runs_are_merged_and_shown_again() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let url = format!("http://{address}/events?interval=20ms&count=100");
    let files = [path("a.json"), path("b.json")];
    let children: Vec<_> = files
        .iter()
        .map(|file| {
            let mut command = program();
            command.args(["run", "-c", "7", "--ramp", "0s", "-d", "20s", "--json", file, &url]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().expect("the program starts")
        })
        .collect();
    for mut child in children {
        assert!(matches!(child.wait().expect("it ends").code(), Some(0 | 2)));
    }
    let (json, hgrm) = (path("merged.json"), path("out/merged"));
    let output = program()
        .args(["merge", &files[0], &files[1], "--json", &json, "--hgrm", &hgrm, "--fail-if", "lost>0"])
        .output()
        .expect("the program starts");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let saved::Saved::Run(merged) = saved::read(json.as_ref()).expect("readable") else { panic!("{all}") };
    assert_eq!(output.status.code(), Some(if merged.valid { 0 } else { 2 }), "{all}");
    assert_eq!((merged.counts.stamped, merged.distributions["latency_us"].count), (14 * 100, 14 * 100), "{all}");
    assert_eq!((merged.ends["clean_end"], merged.connections, merged.parts.len()), (14, 14, 2), "{all}");
    assert!(all.contains("14 streams to") && all.contains("due → read") && all.contains("merged      2 runs"), "{all}");
    assert!(Path::new(&format!("{hgrm}.latency_us.hgrm")).exists(), "{all}");

    let again = program().args(["report", &json]).output().expect("the program starts");
    assert_eq!(again.stdout, output.stdout, "{}", text(&again.stderr));
    assert_eq!(again.status.code(), output.status.code());
}
