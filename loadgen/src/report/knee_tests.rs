//! When a rate counts as carried, and what follows for a target.

use super::*;

/// 10 streams that were to get 100 events.
fn figures(latency_us: u64) -> StepFigures {
    let mut record = Record::default();
    record.counts.open = 10;
    record.counts.stamped = 100;
    record.latency_us.record(latency_us);
    StepFigures {
        streams: 10,
        expected_events: 100,
        seconds: 2.0,
        cpu_us: Some(2000),
        machine_share: 0.5,
        worker_share: Some(0.2),
        record,
    }
}

/// A round that carried the rates up to `carried` and stopped at the next.
fn round(carried: &[f64], stopped: f64) -> KneeRound {
    let mut steps: Vec<KneeStep> = carried.iter().map(|rate| KneeStep::of(*rate, &figures(500), 1000)).collect();
    steps.push(KneeStep::of(stopped, &figures(5000), 1000));
    KneeRound { steps }
}

fn report(targets: Vec<(Target, Vec<KneeRound>)>) -> KneeReport {
    KneeReport::new(Conditions::read(1024), BTreeMap::new(), (10, 1000), false, targets)
}

#[test]
fn a_rate_is_carried_when_everything_came_and_the_median_is_low() {
    let carried = KneeStep::of(5000.0, &figures(999), 1000);
    assert!(carried.carried && carried.reason.is_none());
    assert_eq!((carried.delivered_per_second, carried.cpu_us_per_event), (50.0, Some(20.0)));

    let (mut lost, mut late, mut gone) = (figures(10), figures(10), figures(10));
    lost.record.integrity.lost = 1;
    late.record.counts.stamped = 99;
    gone.record.counts.open = 9;
    for (figures, expected) in [
        (lost, "lost or damaged"),
        (late, "1 of 100 events did not come"),
        (gone, "1 of 10 streams"),
        (figures(1000), "p50 1.0ms"),
    ] {
        let step = KneeStep::of(5000.0, &figures, 1000);
        assert!(!step.carried && step.reason.as_deref().is_some_and(|reason| reason.contains(expected)), "{step:?}");
    }
}

#[test]
fn the_knee_is_the_highest_rate_carried_and_is_compared_round_by_round() {
    let report = report(vec![
        (Target::Direct, vec![round(&[1.0, 2.0, 4.0], 8.0), round(&[1.0, 2.0, 4.0], 8.0)]),
        (Target::Nginx, vec![round(&[1.0], 2.0), round(&[1.0, 2.0], 4.0)]),
        (Target::SseProxy, vec![round(&[1.0, 2.0], 4.0), round(&[1.0, 2.0], 4.0)]),
    ]);
    assert_eq!(report.targets[1].events_per_second, Some(1.5));
    assert_eq!(report.targets[2].ratio_to_nginx, Some(Spread { median: 1.5, min: 1.0, max: 2.0 }));
    assert!(report.valid && report.warnings.is_empty(), "{:?}", report.warnings);
}

#[test]
fn what_the_harness_limits_is_told() {
    let report = report(vec![
        (Target::Direct, vec![round(&[1.0], 2.0)]),
        (Target::Nginx, vec![round(&[1.0], 2.0)]),
        (Target::SseProxy, vec![round(&[], 1.0)]),
    ]);
    let causes: Vec<&str> = report.warnings.iter().map(|warning| warning.cause.as_str()).collect();
    assert!(causes[0].starts_with("nginx: stopped where `direct` did"), "{causes:?}");
    assert!(causes[1].starts_with("sse-proxy: the lowest rate"), "{causes:?}");
    assert!(!report.valid);
}

#[test]
fn rates_rise_until_one_is_too_much_and_then_close_in_on_the_knee() {
    let tried = |knee: f64, to: f64| {
        let mut round = KneeRound::default();
        while let Some(rate) = round.next_rate(100.0, 4.0, to, 2) {
            round.steps.push(KneeStep::of(rate, &figures(if rate < knee { 500 } else { 5000 }), 1000));
        }
        (round.steps.iter().map(|step| step.rate).collect::<Vec<_>>(), round.carried())
    };
    assert_eq!(tried(900.0, 1e9), (vec![100.0, 400.0, 1600.0, 800.0, 1131.370849898476], Some(800.0)));
    assert_eq!(tried(50.0, 1e9), (vec![100.0], None));
    assert_eq!(tried(1e9, 1000.0), (vec![100.0, 400.0], Some(400.0)));
}
