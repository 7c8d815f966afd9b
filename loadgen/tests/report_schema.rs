//! The published schema of the reports accepts what the program writes, and nothing less.

mod support;

use std::path::Path;

use serde_json::{Map, Value};
use support::schema::faults;
use support::{origin, program, text};

/// Runs a command with `--json` and returns the document.
fn written(directory: &Path, name: &str, arguments: &[&str]) -> Value {
    let path = directory.join(name);
    let output = program().args(arguments).arg("--json").arg(&path).output().expect("the program starts");
    let document = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {}{}", text(&output.stdout), text(&output.stderr)));
    serde_json::from_str(&document).expect("JSON")
}

#[test]
fn what_the_program_writes_is_what_the_schema_says() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let url = format!("http://{address}/events?interval=10ms&count=5");
    let run = written(directory.path(), "run.json", &["run", "-c", "3", "-d", "20s", &url]);
    written(directory.path(), "other.json", &["run", "-c", "2", "-d", "20s", "-X", "POST", &url]);
    let merged = written(directory.path(), "merged.json", &["merge", &path("run.json"), &path("other.json")]);
    let small = [
        "compare",
        "--streams",
        "4",
        "--rounds",
        "1",
        "--interval",
        "100ms",
        "--heartbeat",
        "200ms",
        "--duration",
        "300ms",
    ];
    let started = written(directory.path(), "compare.json", &[&small[..], &["--targets", "direct"]].concat());
    let (origin, service) = (format!("http://{address}"), format!("direct=http://{address}"));
    let attached = ["--origin", origin.as_str(), "--service", service.as_str()];
    let attached = written(directory.path(), "services.json", &[&small[..], &attached[..]].concat());
    let small_knee =
        ["knee", "--streams", "4", "--targets", "direct", "--from", "40", "--to", "40", "--duration", "300ms"];
    let knee = written(directory.path(), "knee.json", &small_knee);
    for document in [&run, &merged, &started, &attached, &knee] {
        assert_eq!(faults(document), Vec::<String>::new(), "{}", document["kind"]);
    }
    assert_eq!(
        (merged["parts"].as_array().map(Vec::len), attached["services"].as_object().map(Map::len)),
        (Some(2), Some(1))
    );
}

#[test]
fn the_schema_notices_what_is_missing_new_or_of_another_type() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("http://{address}/events?interval=10ms&count=2");
    let run = written(directory.path(), "run.json", &["run", "-c", "1", "-d", "20s", &url]);
    let mut missing = run.clone();
    missing["counts"].as_object_mut().expect("counts").remove("bytes");
    let mut new = run.clone();
    new["integrity"]["misplaced"] = 1.into();
    let mut other = run;
    other["seconds"] = "ten".into();
    for (document, expected) in [
        (missing, "/counts: bytes is missing"),
        (new, "/integrity/misplaced: not in"),
        (other, "/seconds: \"ten\" is no number"),
    ] {
        let faults = faults(&document);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{expected}: {faults:?}");
    }
}
