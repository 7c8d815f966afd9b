//! Tests of the figures and warnings that follow from readings.

use super::super::figures::{CgroupReadings, Churn, KernelReadings, PssReadings};
use super::super::opening::OpeningFigures;
use super::super::ratios::Spread;
use super::*;
use crate::target::cgroup::CgroupMemory;
use crate::target::kernel::{KernelMemory, Method};

const KIB: u64 = 1024;

/// 100 silent streams of which each takes `user_kib` of the target and `kernel_kib` of the machine.
fn figures(target: Target, user_kib: Option<u64>, kernel_kib: u64, latency_us: u64) -> Figures {
    let mut record = Record::default();
    record.counts.open = 100;
    record.counts.events = 1000;
    record.counts.heartbeats = u64::from(target.has_proxy());
    record.latency_us.record(latency_us);
    let user = user_kib.map(|kib| kib * KIB).map(|each| PssReadings {
        idle: 5000 * KIB,
        low: 5000 * KIB + 20 * each,
        full: 5000 * KIB + 100 * each,
        traffic: 5000 * KIB + 110 * each,
        opened: None,
        closed: None,
    });
    let reading = |streams: u64| KernelMemory {
        bytes: streams * kernel_kib * KIB,
        method: Method::SocketObjects,
        sockets: target.sockets(streams, 1),
    };
    let kernel = Some(KernelReadings { low: reading(20), full: reading(100) });
    let round = RoundFigures {
        low: 20,
        streams: 100,
        streams_per_connection: 1,
        expected_events: 1000,
        user,
        kernel,
        charged: None,
        unread: None,
        samples: Vec::new(),
        opening: OpeningFigures { streams: 80, us: Some(40_000), cpu_us: user_kib.map(|kib| kib * 800) },
        churn: None,
        stalled: None,
        expects_heartbeats: true,
        cpu_us: user_kib.map(|kib| kib * 10_000),
        machine_share: 0.5,
        worker_share: Some(0.2),
        record,
    };
    Figures { target, rounds: vec![round.clone(), round] }
}

fn report(figures: &[Figures]) -> CompareReport {
    CompareReport::new(Conditions::read(1024), BTreeMap::new(), BTreeMap::new(), 100, false, figures)
}

#[test]
fn slopes_costs_and_ratios_follow_from_the_readings() {
    let report = report(&[
        figures(Target::Direct, None, 7, 50),
        figures(Target::Nginx, Some(14), 15, 100),
        figures(Target::SseProxy, Some(7), 14, 80),
    ]);
    let proxy = &report.targets[2];
    assert_eq!(proxy.memory.user_bytes_per_stream, Some(7.0 * 1024.0));
    assert_eq!(proxy.memory.kernel_bytes_per_stream, Some(7.0 * 1024.0));
    assert_eq!(proxy.memory.idle_bytes, Some(5000 * KIB));
    assert_eq!(proxy.cpu_us_per_event, Some(70.0));
    assert_eq!(
        proxy.ratio_to_nginx,
        Ratios { memory: Some(0.5), cpu: Some(0.5), p50: Some(0.8), p99: Some(0.8), opening: Some(1.0) }
    );
    assert_eq!(proxy.opening, Opening { per_second: Some(2000.0), cpu_us_per_stream: Some(70.0) });
    assert_eq!(proxy.ratio_spread.cpu, Some(Spread { median: 0.5, min: 0.5, max: 0.5 }));
    assert_eq!((proxy.streams_held, proxy.events, proxy.heartbeats), (100, 2000, 2));
    assert!(report.valid, "{:?}", report.warnings);
}

#[test]
fn what_cannot_be_measured_is_null() {
    let report = report(&[figures(Target::Direct, None, 7, 50)]);
    let direct = serde_json::to_value(&report.targets[0]).expect("serializable");
    assert_eq!(
        direct["memory"],
        serde_json::json!({
            "user_bytes_per_stream": null, "kernel_bytes_per_stream": null, "cgroup_bytes_per_stream": null, "idle_bytes": null
        })
    );
    assert!(direct["cpu_us_per_event"].is_null());
    assert_eq!(
        direct["ratio_to_nginx"],
        serde_json::json!({"memory": null, "cpu": null, "p50": null, "p99": null, "opening": null})
    );
    let alone = self::report(&[figures(Target::Nginx, Some(14), 15, 100)]);
    assert_eq!(alone.targets[0].memory.kernel_bytes_per_stream, None, "nothing to subtract");
    let spoiled = self::report(&[figures(Target::Direct, None, 20, 50), figures(Target::Nginx, Some(14), 15, 100)]);
    assert_eq!(spoiled.targets[1].memory.kernel_bytes_per_stream, None, "sockets do not cost less than nothing");
}

#[test]
fn memory_that_shrank_while_streams_were_opened_is_no_multiple_of_another() {
    let mut proxy = figures(Target::SseProxy, Some(7), 14, 80);
    for user in proxy.rounds.iter_mut().filter_map(|round| round.user.as_mut()) {
        user.full = user.low - 1;
    }
    let report = report(&[figures(Target::Nginx, Some(14), 15, 100), proxy]);
    assert!(report.targets[1].memory.user_bytes_per_stream.is_some_and(|bytes| bytes < 0.0));
    assert_eq!(report.targets[1].ratio_to_nginx.memory, None);
}

#[test]
fn lost_streams_in_one_round_make_it_invalid() {
    let mut nginx = figures(Target::Nginx, Some(14), 15, 100);
    nginx.rounds[1].record.counts.open = 90;
    let report = report(&[nginx]);
    assert_eq!((report.valid, report.targets[0].streams_held), (false, 90));
    assert!(report.warnings[0].cause.starts_with("nginx: 10 of 200 streams"), "{:?}", report.warnings);
}

#[test]
fn sockets_of_others_are_noticed() {
    let mut nginx = figures(Target::Nginx, Some(14), 15, 100);
    nginx.rounds[0].kernel.as_mut().expect("read").full.sockets += 50;
    let report = report(&[nginx]);
    assert!(report.valid && report.warnings[0].cause.contains("other sockets"), "{:?}", report.warnings);
}

#[test]
fn a_service_in_a_container_has_what_is_charged_to_it() {
    let charged = |streams: u64| CgroupMemory {
        version: 2,
        current: 9_000_000 + streams * 3000,
        anon: Some(0),
        file: Some(5_000_000),
        kernel: Some(1_000_000 + streams * 1500),
        sock: Some(streams * 500),
    };
    let mut nginx = figures(Target::Nginx, Some(14), 15, 100);
    for round in &mut nginx.rounds {
        round.kernel = None;
        round.charged =
            Some(CgroupReadings { idle: charged(0), low: charged(20), full: charged(100), traffic: charged(100) });
    }
    nginx.rounds[0].unread = Some("PSS: permission denied".to_owned());
    let report = report(&[nginx]);
    let memory = report.targets[0].memory;
    assert_eq!((memory.kernel_bytes_per_stream, memory.cgroup_bytes_per_stream), (Some(2000.0), Some(3000.0)));
    assert!(report.valid && report.warnings[0].cause.contains("permission denied"), "{:?}", report.warnings);
}

#[test]
fn memory_of_a_service_is_that_of_its_first_load() {
    let mut nginx = figures(Target::Nginx, Some(14), 15, 100);
    // The second turn finds everything allocated: what a stream takes is not half of it.
    let warm = 5000 * KIB + 110 * 14 * KIB;
    nginx.rounds[1].user =
        Some(PssReadings { idle: warm, low: warm, full: warm, traffic: warm, opened: None, closed: None });
    let started_anew = report(&[nginx.clone()]);
    assert_eq!(started_anew.targets[0].memory.user_bytes_per_stream, Some(7.0 * 1024.0), "the median of both");
    nginx.rounds.iter_mut().for_each(|round| round.kernel = None);
    let service = report(&[nginx]);
    let memory = service.targets[0].memory;
    assert_eq!((memory.user_bytes_per_stream, memory.idle_bytes), (Some(14.0 * 1024.0), Some(5000 * KIB)));
    let mut table = Vec::new();
    super::super::compare_table::write_table(&mut table, &service).expect("written");
    let table = String::from_utf8(table).expect("text");
    assert!(table.contains("  14.0 KiB  15.4 KiB "), "{table}");
}

#[test]
fn each_column_is_explained_on_one_line_and_in_the_readme() {
    use super::super::compare_table::{LEGEND, write_table};
    let mut table = Vec::new();
    let report = report(&[figures(Target::Nginx, Some(14), 15, 100), figures(Target::SseProxy, Some(7), 14, 80)]);
    write_table(&mut table, &report).expect("written");
    let table = String::from_utf8(table).expect("text");
    let head = table.lines().next().expect("a head");
    let columns = head.split("  ").map(str::trim).filter(|column| !column.is_empty());
    let within_latency = |column: &str| ["p50", "p99", "p99.9", "max"].contains(&column);
    for column in columns.filter(|column| !within_latency(column)).chain(["p50 … max", "× nginx"]) {
        assert_eq!(LEGEND.iter().filter(|(name, _)| *name == column).count(), 1, "{column}");
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the page");
    for (column, meaning) in LEGEND {
        assert!(table.lines().any(|line| line == format!("{column:<14}  {meaning}")), "{column}: {table}");
        assert!(readme.contains(&format!("| {column} | {meaning} |")), "{column} in loadgen/README.md");
    }
}

#[test]
fn a_proxy_without_heartbeats_is_doubted() {
    let mut proxy = figures(Target::SseProxy, Some(1), 14, 80);
    proxy.rounds.iter_mut().for_each(|round| round.record.counts.heartbeats = 0);
    assert!(!report(&[proxy]).valid);
}

#[test]
fn ratios_of_single_rounds_show_how_far_they_lie_apart() {
    let (nginx, mut proxy) = (figures(Target::Nginx, Some(14), 15, 100), figures(Target::SseProxy, Some(7), 14, 80));
    proxy.rounds.push(proxy.rounds[0].clone());
    proxy.rounds[0].cpu_us = Some(280_000);
    let report = report(&[nginx, proxy]);
    let spread = report.targets[1].ratio_spread.cpu.expect("two pairs of rounds");
    assert_eq!((spread.min, spread.median, spread.max), (0.5, 1.25, 2.0), "the third round has no partner");
}

#[test]
fn a_churn_that_could_not_open_all_its_streams_is_invalid() {
    let mut nginx = figures(Target::Nginx, Some(14), 15, 100);
    nginx.rounds[0].churn = Some(Churn { streams: 100, opened: 99, batch: 10, user_bytes: vec![1, 2] });
    let report = report(&[nginx]);
    assert!(!report.valid && report.warnings[0].cause.contains("1 of 100 further streams"), "{:?}", report.warnings);
}

#[test]
fn no_heartbeat_is_expected_of_streams_that_were_never_silent() {
    let mut proxy = figures(Target::SseProxy, Some(1), 14, 80);
    for round in &mut proxy.rounds {
        round.record.counts.heartbeats = 0;
        round.expects_heartbeats = false;
    }
    assert!(report(&[proxy]).valid);
}
