//! Tests of the page.

use super::*;
use crate::report::compare::CompareReport;
use crate::report::conditions::Conditions;
use crate::report::knee::{KneeReport, KneeRound};
use crate::target::Target;
use crate::validity::Warning;

fn suite(name: Suite, result: SuiteResult) -> SuiteReport {
    SuiteReport { name, command: "sse-loadgen knee".to_owned(), error: None, result: Some(result) }
}

fn knee(rounds: Vec<(Target, Vec<KneeRound>)>) -> SuiteResult {
    let report = KneeReport::new(Conditions::read(1024), BTreeMap::new(), (10, 1000), false, rounds);
    SuiteResult::Knee(Box::new(report))
}

fn report(suites: Vec<SuiteReport>) -> BenchReport {
    let micro = Micro {
        group: "boundary scan".to_owned(),
        parameter: Some("100".to_owned()),
        nanoseconds: 13.4,
        low: 13.0,
        high: 14.0,
        bytes: Some(134),
    };
    BenchReport::new(Conditions::read(1024), false, vec!["haproxy: not there".to_owned()], suites, vec![micro])
}

#[test]
fn warnings_stand_on_the_page_as_they_were_raised() {
    let mut compared = CompareReport::new(Conditions::read(1024), BTreeMap::new(), BTreeMap::new(), 10, false, &[]);
    compared.valid = false;
    compared.warnings =
        vec![Warning { invalidates: true, cause: "nginx: it rained".to_owned(), remedy: "wait".to_owned() }];
    let page = page(&report(vec![suite(Suite::Staggered, SuiteResult::Compare(Box::new(compared)))]));
    assert!(page.contains("- Not valid: nginx: it rained\n  (remedy: wait)\n"), "{page}");
    assert!(page.contains("> **Not valid: staggered."), "{page}");
    assert!(page.contains("> **Not valid**: what is measured here"), "{page}");
}

#[test]
fn what_was_left_out_or_failed_is_told() {
    let failed = SuiteReport {
        name: Suite::Knee,
        command: "sse-loadgen knee".to_owned(),
        error: Some("nginx has ended;\nits log".to_owned()),
        result: None,
    };
    let report = report(vec![failed]);
    assert!(!report.valid);
    let page = page(&report);
    assert!(page.contains("| left out | haproxy: not there |"), "{page}");
    assert!(page.contains("> **Failed:** nginx has ended; its log"), "{page}");
}

#[test]
fn the_core_has_its_own_table() {
    let page = page(&report(vec![suite(Suite::Knee, knee(vec![(Target::Direct, vec![KneeRound::default()])]))]));
    assert!(page.contains("| boundary scan | 100 | 13.4 ns | 13.0–14.0 ns | 0.100 ns |"), "{page}");
}

#[test]
fn parts_of_a_suite_stand_under_one_heading() {
    let mut parts = vec![suite(Suite::Staggered, knee(Vec::new())), suite(Suite::H2c, knee(Vec::new()))];
    parts.push(SuiteReport { command: "sse-loadgen compare --protocol h2c".to_owned(), ..parts[1].clone() });
    let page = page(&report(parts));
    assert_eq!(page.matches("## Over HTTP/2 without TLS\n").count(), 1, "{page}");
    assert!(page.contains("$ sse-loadgen knee\n") && page.contains("$ sse-loadgen compare --protocol h2c\n"), "{page}");
}
