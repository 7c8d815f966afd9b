//! Small real measurements of what `make bench` is made of: HAProxy, several workers, the knee, churn, and the page.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{configuration, installed, program, text};

/// Runs a command that writes JSON; returns the document, and what it printed.
fn measured(directory: &Path, arguments: &[&str]) -> (Value, String) {
    let json = directory.join("report.json");
    let output = program()
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .arg("--nginx-conf")
        .arg(configuration("nginx/baseline.conf"))
        .arg("--haproxy-conf")
        .arg(configuration("haproxy/baseline.cfg"))
        .output()
        .expect("the program starts");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 2)), "{all}");
    let document = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("no JSON ({error}): {all}"));
    (serde_json::from_str(&document).expect("JSON"), all)
}

/// Targets that can be measured here; says which cannot.
fn here(targets: &[&'static str]) -> Vec<&'static str> {
    let (found, missing): (Vec<_>, Vec<_>) = targets.iter().partition(|name| **name == "direct" || installed(name));
    if !missing.is_empty() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "not installed: {}", missing.join(", "));
    }
    found
}

#[test]
fn several_workers_and_origins_hold_all_streams_and_give_memory_back() {
    let targets = here(&["direct", "nginx", "haproxy"]).join(",");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut arguments = vec!["compare", "--streams", "60", "--rounds", "1", "--targets", targets.as_str()];
    arguments.extend([
        "--workers",
        "2",
        "--origins",
        "2",
        "--processes",
        "2",
        "--ramp-rate",
        "max",
        "--churn",
        "40",
        "--stalled",
        "3",
    ]);
    arguments.extend(["--settle", "100ms", "--interval", "100ms", "--heartbeat", "200ms", "--duration", "500ms"]);
    let (document, all) = measured(directory.path(), &arguments);
    let list = document["targets"].as_array().expect("targets");
    assert_eq!(list.len(), targets.split(',').count(), "{all}");
    for target in list {
        assert_eq!((&target["streams_held"], &target["events"]), (&60.into(), &300.into()), "{all}");
        assert!(target["opening"]["per_second"].as_f64() > Some(1.0), "{all}");
        let round = &target["rounds"][0];
        if target["name"] == "direct" {
            assert!(round["churn"].is_object() && round["traffic_samples"] == serde_json::json!([]), "{round}");
            continue;
        }
        assert_eq!((&round["churn"]["opened"], &round["stalled"]["opened"]), (&40.into(), &3.into()), "{round}");
        assert_eq!(round["churn"]["user_bytes"].as_array().map(Vec::len), Some(11), "{round}");
        assert!(round["traffic_samples"].as_array().is_some_and(|samples| samples.len() > 1), "{round}");
        assert!(round["user_bytes"]["closed"].is_u64() && round["user_bytes"]["opened"].is_u64(), "{round}");
    }
}

#[test]
fn the_knee_is_where_the_rates_that_were_carried_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut arguments = vec!["knee", "--streams", "10", "--targets", "direct", "--from", "100", "--factor", "2"];
    arguments.extend(["--to", "300", "--limit", "500ms", "--duration", "300ms"]);
    let (document, all) = measured(directory.path(), &arguments);
    assert_eq!(document["targets"][0]["events_per_second"], 200.0, "{all}");
    assert!(all.contains("carried every rate that was tried"), "{all}");

    let json = directory.path().join("report.json");
    let again = program().arg("report").arg(json).output().expect("the program starts");
    assert!(text(&again.stdout).contains("200 events/s"), "{}", text(&again.stdout));
}

#[test]
fn a_quick_bench_writes_a_page_that_its_document_gives_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let page_path: PathBuf = directory.path().join("docs/page.md");
    let page_name = page_path.display().to_string();
    let targets = here(&["direct", "nginx"]).join(",");
    let mut arguments = vec!["bench", "--quick", "--targets", targets.as_str(), "--markdown", page_name.as_str()];
    arguments.extend(["--suites", "staggered,knee,h2c", "--criterion", "/no/such/directory"]);
    let (document, all) = measured(directory.path(), &arguments);
    assert_eq!(support::schema::faults(&document), Vec::<String>::new());
    let names: Vec<&Value> =
        document["suites"].as_array().expect("suites").iter().map(|suite| &suite["name"]).collect();
    let expected =
        if targets.contains("nginx") { &["staggered", "knee", "h2c", "h2c"][..] } else { &["staggered", "knee"] };
    assert_eq!(names, expected, "{all}");

    let page = std::fs::read_to_string(&page_path).expect("a page");
    for expected in
        ["# Benchmarks", "A quick run", "## An even flow of events", "sse-loadgen compare --streams 50", "0/0/0/0"]
    {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    for warning in document["suites"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|suite| suite["result"]["warnings"].as_array())
        .flatten()
    {
        assert!(page.contains(warning["cause"].as_str().expect("text")), "{warning}: {page}");
    }
    let again = program().arg("report").arg(directory.path().join("report.json")).output().expect("the program starts");
    assert_eq!(text(&again.stdout), page);
}

#[test]
fn an_interrupted_bench_shows_what_it_has_and_writes_no_page() {
    use rustix::process::{Pid, Signal, kill_process};
    use sse_loadgen::target::tree;

    let directory = tempfile::tempdir().expect("a temporary directory");
    let (json, page) = (directory.path().join("bench.json"), directory.path().join("page.md"));
    let child = program()
        .args(["bench", "--suites", "knee", "--targets", "direct", "--json"])
        .arg(&json)
        .arg("--markdown")
        .arg(&page)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut family = Vec::new();
    support::eventually("the origin runs", || {
        family = tree::pids(child.id()).unwrap_or_default();
        // Not just any child: the conditions of a run are asked of other programs before signals are caught.
        let is_origin = |pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).nth(1) == Some(b"origin")
        };
        family.iter().any(is_origin)
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stdout).contains("Interrupted"), "{}", text(&output.stdout));
    assert!(json.exists() && !page.exists());
    let is_gone = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
    support::eventually("all of them end", || family.iter().all(is_gone));
}
