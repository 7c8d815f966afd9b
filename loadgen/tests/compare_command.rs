//! A small comparison, its document, and what is left when it is killed.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sse_loadgen::target::{haproxy, nginx, tree};
use support::{built_proxy, configuration, eventually, installed, origin, program, text};

/// Short phases: this is about what is counted, not how fast it goes.
const SMALL: [&str; 16] = [
    "compare",
    "--streams",
    "50",
    "--rounds",
    "1",
    "--interval",
    "100ms",
    "--heartbeat",
    "200ms",
    "--duration",
    "500ms",
    "--settle",
    "100ms",
    "--hold",
    "500ms",
    "--targets",
];

fn has_nginx() -> bool {
    installed("nginx")
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_small_comparison_keeps_its_contract() {
    let targets = if has_nginx() { "direct,nginx" } else { "direct" };
    if !has_nginx() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "nginx is not installed: compared without it");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("compare.json");
    let output = program()
        .args(SMALL)
        .args([targets, "--nginx-conf"])
        .arg(configuration("nginx/baseline.conf"))
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program starts");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let document = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("no JSON ({error}): {all}"));
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert!(matches!(output.status.code(), Some(0 | 2)), "{all}");
    assert_eq!(document["valid"], output.status.code() == Some(0), "{all}");

    let list = document["targets"].as_array().expect("targets");
    assert_eq!(
        list.iter().map(|target| target["name"].as_str().expect("a name")).collect::<Vec<_>>().join(","),
        targets
    );
    for target in list {
        let contract = [
            "connect_from_due_us",
            "connect_us",
            "cpu_us_per_event",
            "events",
            "heartbeats",
            "integrity",
            "latency_us",
            "memory",
            "name",
            "opening",
            "ratio_spread",
            "ratio_to_nginx",
            "rounds",
            "streams_held",
            "ttfb_from_due_us",
            "ttfb_us",
        ];
        assert_eq!(keys(target), contract);
        assert_eq!(
            keys(&target["memory"]),
            ["cgroup_bytes_per_stream", "idle_bytes", "kernel_bytes_per_stream", "user_bytes_per_stream"]
        );
        assert_eq!(keys(&target["latency_us"]), ["max", "p50", "p99", "p999"]);
        assert_eq!(keys(&target["ttfb_us"]), ["p50", "p99"]);
        assert_eq!(keys(&target["ratio_to_nginx"]), ["cpu", "memory", "opening", "p50", "p99"]);
        assert_eq!(target["streams_held"], 50, "{all}");
        assert_eq!(target["events"], 50 * 5, "{all}");
        assert_eq!(target["heartbeats"], 0, "{all}");
        assert_eq!(
            target["integrity"],
            serde_json::json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0}),
            "{all}"
        );
        assert!(target["latency_us"]["p99"].is_u64() && target["ttfb_us"]["p99"].is_u64(), "{all}");
        let is_direct = target["name"] == "direct";
        for number in
            [&target["memory"]["idle_bytes"], &target["memory"]["user_bytes_per_stream"], &target["cpu_us_per_event"]]
        {
            assert_eq!(number.is_null(), is_direct, "{target}");
        }
    }
    assert!(document["conditions"]["cores"].is_u64() && document["conditions"]["command"].is_string());
    assert!(all.contains("memory/stream"), "{all}");

    let prefix = directory.path().join("out/again");
    let again = program().arg("report").arg(&json).arg("--hgrm").arg(&prefix).output().expect("the program starts");
    assert_eq!((again.status.code(), &again.stdout), (output.status.code(), &output.stdout), "{}", text(&again.stderr));
    assert!(directory.path().join("out/again.direct.latency_us.hgrm").exists());
}

#[test]
fn the_configurations_that_are_shipped_have_the_lines_that_are_replaced() {
    haproxy::check_config(&configuration("haproxy/baseline.cfg")).expect("shipped");
    for (file, upstream) in [("baseline.conf", nginx::BASELINE_UPSTREAM), ("front.conf", nginx::FRONT_UPSTREAM)] {
        let path = configuration(&format!("nginx/{file}"));
        nginx::check_config(&path, upstream, 100, Some(7), 20_000).expect(file);
        assert!(nginx::check_config(&path, "server elsewhere", 100, None, 20_000).is_err(), "{file}");
    }
}

#[test]
fn every_protocol_is_compared_with_the_configuration_that_is_shipped() {
    let proxy = built_proxy();
    let mut targets = Vec::new();
    targets.extend(has_nginx().then_some("nginx"));
    targets.extend(proxy.is_some().then_some("sse-proxy"));
    targets.extend((targets.len() == 2).then_some("nginx+sse-proxy"));
    if targets.len() < 3 {
        use std::io::Write as _;
        let _ =
            writeln!(std::io::stderr(), "nginx is not installed, or sse-proxy not built: compared {targets:?} only");
    }
    if targets.is_empty() {
        return;
    }
    // At the same time: most of what a turn takes is waiting.
    std::thread::scope(|scope| {
        for (protocol, each) in [("tls", 1), ("h2", 20), ("h2c", 20), ("h2c", 1)] {
            let (targets, proxy) = (&targets, proxy.as_deref());
            scope.spawn(move || compare_over(protocol, each, targets, proxy));
        }
    });
}

fn compare_over(protocol: &str, each: u64, targets: &[&str], proxy: Option<&Path>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("compare.json");
    let mut command = program();
    command.args(SMALL).arg(targets.join(",")).args(["--churn", "2"]);
    command.arg("--nginx-conf").arg(configuration("nginx/baseline.conf"));
    command.arg("--front-conf").arg(configuration("nginx/front.conf"));
    command.args(["--protocol", protocol]);
    if protocol != "tls" {
        command.args(["--streams-per-connection", &each.to_string()]);
    }
    if let Some(proxy) = proxy {
        command.arg("--proxy-bin").arg(proxy);
    }
    let output = command.arg("--json").arg(&json).output().expect("the program starts");
    let all = format!("{protocol}: {}{}", text(&output.stdout), text(&output.stderr));
    let document = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("no JSON ({error}): {all}"));
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(support::schema::faults(&document), Vec::<String>::new());
    assert_eq!(document["conditions"]["protocol"], protocol, "{all}");
    assert_eq!(document["conditions"]["streams_per_connection"], each, "{all}");
    assert!(all.contains("direct is not among the targets"), "{all}");
    let measured = document["targets"].as_array().expect("targets");
    assert_eq!(measured.len(), targets.len(), "{all}");
    for target in measured {
        assert_eq!((&target["streams_held"], &target["events"]), (&50.into(), &250.into()), "{all}");
        assert_eq!(target["rounds"][0]["churn"]["opened"], 2, "{all}");
        let unharmed = serde_json::json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0});
        assert_eq!(target["integrity"], unharmed, "{all}");
        // A response head that waits for the first event would take as long as the harness has patience.
        assert!(target["ttfb_us"]["p99"].as_u64() < Some(10_000_000), "{all}");
    }
}

#[test]
fn services_that_run_already_are_read_through_their_gauges() {
    let (_origin, address) = origin();
    let own = std::process::id().to_string();
    let mut gauge = program()
        .args(["gauge", "--listen", "127.0.0.1:0", "--pid", &own])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    BufReader::new(gauge.stdout.as_mut().expect("piped")).read_line(&mut line).expect("an address");
    let gauge_address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("compare.json");
    let output = program()
        .args(&SMALL[..SMALL.len() - 1])
        .args(["--origin", &format!("http://{address}"), "--service", &format!("direct=http://{address}")])
        .args(["--service", &format!("nginx=http://{address},http://{gauge_address}")])
        .arg("--json")
        .arg(&json)
        .output();
    kill_process(Pid::from_child(&gauge), Signal::TERM).expect("it runs");
    assert_eq!(gauge.wait().expect("it ends").code(), Some(0));
    let output = output.expect("the program starts");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 2)), "{all}");
    let document = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("no JSON ({error}): {all}"));
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["services"]["nginx"], format!("http://{address}/"), "{all}");
    let [direct, nginx] = document["targets"].as_array().expect("targets").as_slice() else { panic!("{all}") };
    for target in [direct, nginx] {
        assert_eq!((&target["streams_held"], &target["events"]), (&50.into(), &250.into()), "{all}");
        assert!(target["rounds"][0]["kernel_bytes"].is_null(), "{all}");
    }
    assert!(direct["memory"]["idle_bytes"].is_null() && direct["cpu_us_per_event"].is_null(), "{all}");
    assert!(nginx["memory"]["idle_bytes"].as_u64() > Some(100_000) && nginx["cpu_us_per_event"].is_number(), "{all}");
    assert!(text(&output.stdout).lines().next().is_some_and(|columns| columns.contains("cgroup")), "{all}");
}

#[test]
fn a_comparison_that_is_killed_leaves_nothing_running() {
    if !has_nginx() {
        return;
    }
    // What is killed cannot tidy up: its files go away with this directory.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = program()
        .env("TMPDIR", directory.path())
        .args(SMALL)
        .args(["nginx", "--nginx-conf"])
        .arg(configuration("nginx/baseline.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut family = Vec::new();
    eventually("origin, nginx with its workers, and a client run", || {
        family = tree::pids(child.id()).unwrap_or_default();
        family.len() >= 5
    });
    kill_process(Pid::from_child(&child), Signal::KILL).expect("it runs");
    child.wait().expect("it ends");
    // A zombie has no executable any more.
    let is_gone = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
    eventually("all of them end", || family.iter().all(is_gone));
}

#[test]
fn an_interrupted_comparison_ends_its_children_and_exits_130() {
    let mut child = program()
        .args(SMALL)
        .arg("direct")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut family = Vec::new();
    eventually("the origin runs", || {
        family = tree::pids(child.id()).unwrap_or_default();
        family.len() >= 2
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let is_gone = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
    eventually("all of them end", || family.iter().all(is_gone));
}

#[test]
fn a_target_that_ends_is_told_with_how_it_ended() {
    // Its memory was read before it was checked whether it still ran: "No such process" was all there was to see.
    let Some(proxy) = built_proxy().and_then(|file| file.canonicalize().ok()) else { return };
    let child = program()
        .args(SMALL)
        .args(["sse-proxy", "--proxy-bin"])
        .arg(&proxy)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Not the one that is asked for its version.
    let is_proxy = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        words.next() == Some(proxy.as_os_str().as_encoded_bytes()) && words.next() == Some(b"--config")
    };
    let mut found = None;
    eventually("sse-proxy runs", || {
        found = tree::pids(child.id()).unwrap_or_default().into_iter().find(is_proxy);
        found.is_some()
    });
    let pid = found.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a process");
    kill_process(pid, Signal::KILL).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sse-proxy-1 has ended (signal: 9"), "{said}");
}
