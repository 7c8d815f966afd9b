//! Decides from collected figures whether a result can be trusted: warnings with cause and remedy. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::record::Record;

/// A worker that is busier than this measures its own queue.
const MAX_CPU_SHARE: f64 = 0.9;
/// A client whose timers fire this late reads events late too.
const MAX_TIMER_LATE_US: u64 = 10_000;
/// An origin that sends this late is the bottleneck itself.
const MAX_ORIGIN_LATE_US: u64 = 20_000;
/// A machine with less idle time than this queues everywhere at once.
const MAX_MACHINE_SHARE: f64 = 0.95;

/// A reason to distrust a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Whether the result as a whole cannot be trusted, or only needs a second look.
    pub invalidates: bool,
    /// What was seen.
    pub cause: String,
    /// What would help.
    pub remedy: String,
}

/// What is judged besides the record.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Requested number of streams.
    pub wanted: u64,
    /// Streams open when the measuring ended, or ended as they should.
    pub held: u64,
    /// CPU time of the busiest worker as a share of one core while events flowed.
    pub worker_cpu_share: Option<f64>,
    /// CPU time of everything on the machine as a share of all cores.
    pub machine_cpu_share: Option<f64>,
}

/// Judges a result.
#[must_use]
pub fn judge(record: &Record, evidence: Evidence) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warning = |invalidates, cause: String, remedy: &str| {
        warnings.push(Warning { invalidates, cause, remedy: remedy.to_owned() })
    };
    let missing = evidence.wanted.saturating_sub(evidence.held);
    if missing > 0 {
        warning(
            true,
            format!("{missing} of {} streams were not held: {}", evidence.wanted, reasons(record)),
            &lost_streams_remedy(record),
        );
    }
    let integrity = record.integrity;
    if !integrity.is_clean() {
        warning(
            true,
            format!(
                "events were damaged on the way: {} lost, {} duplicated, {} torn, {} corrupted",
                integrity.lost, integrity.duplicated, integrity.torn, integrity.corrupted
            ),
            "compare with a direct run: faults that occur there too are the client's or the origin's, the others are the target's",
        );
    }
    if record.stalled > 0 {
        warning(
            true,
            format!("{} open streams stopped delivering events", record.stalled),
            "latencies do not include events that never arrived; look at the target's log and backpressure",
        );
    }
    if let Some(share) = evidence.worker_cpu_share.filter(|share| *share >= MAX_CPU_SHARE) {
        warning(
            true,
            format!(
                "the busiest client worker used {:.0} % of a core: latencies include its own queueing",
                share * 100.0
            ),
            "use more --processes, fewer connections or a longer interval",
        );
    }
    if let Some(late_us) = record.timer_late_us.quantile(0.99).filter(|late_us| *late_us > MAX_TIMER_LATE_US) {
        warning(
            true,
            format!("the client's own timers fired {:.1} ms late at p99: latencies include that", late_us as f64 / 1e3),
            "stop other work on the machine, use more --processes, or reduce the load",
        );
    }
    let latency = &record.latency_us;
    let negative = latency.negative + record.transit_us.negative + record.origin_late_us.negative;
    if negative > 0 {
        warning(
            true,
            format!(
                "{negative} latencies were negative: the origin's clock is ahead of this one, or was set back meanwhile"
            ),
            "run origin and client on one machine, or synchronise the clocks",
        );
    }
    let clipped: u64 = record.distributions().iter().map(|(_, distribution)| distribution.clipped).sum();
    if clipped > 0 {
        warning(true, format!("{clipped} values above an hour were clipped"), "check the origin's clock");
    }
    if let Some(late_us) = record.origin_late_us.quantile(0.99).filter(|late_us| *late_us > MAX_ORIGIN_LATE_US) {
        warning(
            false,
            format!(
                "the origin sent events {:.1} ms late at p99: it is slow, or held back by a slow reader",
                late_us as f64 / 1e3
            ),
            "look at `sent → read` for the target's own share; give the origin more threads",
        );
    }
    if let Some(share) = evidence.machine_cpu_share.filter(|share| *share >= MAX_MACHINE_SHARE) {
        warning(
            false,
            format!("the machine was {:.0} % busy: latencies include waiting for a core", share * 100.0),
            "compare ratios only, use a machine with more cores, or reduce the load",
        );
    }
    warnings
}

fn reasons(record: &Record) -> String {
    if record.ends.is_empty() {
        return "not opened in time".to_owned();
    }
    let counted: Vec<String> = record.ends.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.join(", ")
}

fn lost_streams_remedy(record: &Record) -> Cow<'static, str> {
    let has = |reason: &str| record.ends.contains_key(reason);
    let after = |prefix: &str| record.ends.keys().find_map(|reason| reason.strip_prefix(prefix));
    if let Some(limit) = after("stream_limit_") {
        return format!("the server allows {limit} streams on a connection: use --streams-per-connection {limit}")
            .into();
    }
    let remedy = if has("no_port") {
        "no source ports left: add addresses with --source, or destinations"
    } else if has("no_descriptor") {
        "no file descriptors left: use more --processes, or raise the limit"
    } else if has("refused") || has("connect_timeout") {
        "check that the target listens and that its backlog and limits are large enough, or use a slower --ramp"
    } else if has("certificate_other_name") {
        "the certificate is for other names than the URL's: use one of those, or skip verification (--insecure)"
    } else if let Some(coding) = after("content_coding_") {
        return format!(
            "the server compresses streams (Content-Encoding: {coding}), so that events cannot be read: turn off compression of \
             text/event-stream at the server, or remove Accept-Encoding from -H"
        )
        .into();
    } else if after("head_over_").is_some() {
        "the response head exceeds the limit of this client: send fewer or shorter header fields"
    } else if has("no_address") {
        "the URL's host has no address of the same family as --source: use a source address of the other family"
    } else if after("certificate_").is_some() {
        "name the certificate of the authority that signed the server's (--cacert), or skip verification (--insecure)"
    } else if has("no_http2") {
        "the server does not speak HTTP/2: enable it, or leave out --http2"
    } else if has("not_tls") {
        "this port does not speak TLS: use http://"
    } else if has("tls_failed") {
        "the TLS handshake failed: look at the target's log and at the TLS versions and ciphers it allows"
    } else {
        "look at the target's log and limits (connections, descriptors, timeouts)"
    };
    remedy.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Evidence = Evidence { wanted: 10, held: 10, worker_cpu_share: Some(0.4), machine_cpu_share: Some(0.5) };

    fn causes(record: &Record, evidence: Evidence) -> Vec<(bool, String)> {
        judge(record, evidence).into_iter().map(|warning| (warning.invalidates, warning.cause)).collect()
    }

    #[test]
    fn a_clean_run_raises_no_doubt() {
        let mut record = Record::default();
        record.latency_us.record(900);
        record.timer_late_us.record(1_500);
        assert_eq!(causes(&record, FINE), []);
    }

    #[test]
    fn lost_streams_invalidate_and_name_the_reason() {
        let mut record = Record::default();
        record.ends.insert("no_port".to_owned(), 3);
        let warnings = judge(&record, Evidence { held: 7, ..FINE });
        assert!(warnings[0].invalidates && warnings[0].cause.contains("3 no_port"));
        assert!(warnings[0].remedy.contains("--source"));
    }

    #[test]
    fn each_kind_of_doubt_is_raised_once() {
        let mut record = Record::default();
        record.integrity.torn = 1;
        record.stalled = 1;
        record.timer_late_us.record(50_000);
        record.latency_us.record_between(10, 5);
        record.latency_us.record(u64::MAX);
        record.origin_late_us.record(90_000);
        let warnings = causes(&record, Evidence { worker_cpu_share: Some(0.95), machine_cpu_share: Some(1.0), ..FINE });
        assert_eq!(warnings.iter().filter(|(invalidates, _)| *invalidates).count(), 6, "{warnings:?}");
        assert_eq!(warnings.iter().filter(|(invalidates, _)| !*invalidates).count(), 2, "{warnings:?}");
    }
}
