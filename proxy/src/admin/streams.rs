//! `/streams`: the running streams, one by one, and their end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::query::Query;
use crate::driver::{RunningStream, Visitor};
use crate::headers;
use crate::logging::Mask;
use crate::stream::EndReason;
use crate::takeover::Takeover;

/// How long a visit of all streams may take.
const VISIT_LIMIT: Duration = Duration::from_secs(5);

/// How long a stream that is ended may take to reach an event boundary.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The answer to GET.
#[derive(Serialize)]
struct List {
    /// Streams that match.
    total: usize,
    /// Those that are listed.
    shown: usize,
    /// Whether all streams have been looked at in time.
    complete: bool,
    streams: Vec<Row>,
}

/// One stream.
#[derive(Serialize)]
struct Row {
    id: String,
    route: String,
    age_ms: u64,
    client: Option<String>,
    upstream: Option<String>,
    method: String,
    path: String,
    labels: BTreeMap<String, String>,
    events: u64,
    bytes: u64,
    heartbeats: u64,
    pending_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    silence_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<&'static str>,
}

/// The answer to DELETE.
#[derive(Serialize)]
struct Ended {
    ended: usize,
    complete: bool,
}

/// Lists the streams that match, as JSON.
pub(super) async fn list(takeover: &Takeover, query: Query, mask: &Mask) -> Vec<u8> {
    let limit = query.limit();
    let rows = Arc::new(Mutex::new(Vec::new()));
    let total = Arc::new(AtomicUsize::new(0));
    let (mask, found, count) = (mask.clone(), rows.clone(), total.clone());
    let visitor: Arc<Visitor> = Arc::new(move |stream: &mut RunningStream<'_>| {
        if query.matches(stream) && count.fetch_add(1, Ordering::Relaxed) < limit {
            let row = row(stream, &mask);
            found.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    });
    let complete = takeover.visit(visitor, VISIT_LIMIT).await;
    let streams = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
    json(&List { total: total.load(Ordering::Relaxed), shown: streams.len(), complete, streams })
}

/// Ends the streams that match, and returns their number as JSON.
pub(super) async fn end(takeover: &Takeover, query: Query) -> Vec<u8> {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let visitor: Arc<Visitor> = Arc::new(move |stream: &mut RunningStream<'_>| {
        if stream.ended().is_none() && query.matches(stream) {
            stream.end(EndReason::Admin, END_LIMIT);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let complete = takeover.visit(visitor, VISIT_LIMIT).await;
    json(&Ended { ended: ended.load(Ordering::Relaxed), complete })
}

fn row(stream: &RunningStream<'_>, mask: &Mask) -> Row {
    let (info, counts) = (stream.info(), stream.counts());
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Row {
        id: stream.id().to_string(),
        route: stream.route().to_string(),
        age_ms: millis(stream.age()),
        client: info.client().map(headers::shown_address),
        upstream: info.upstream().map(|address| address.to_string()),
        method: info.method().to_owned(),
        path: mask.target(info.path()).into_owned(),
        labels: info.labels().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        events: counts.events,
        bytes: counts.bytes,
        heartbeats: counts.heartbeats,
        pending_bytes: stream.pending_bytes(),
        silence_ms: stream.silence().map(millis),
        ending: stream.ended().map(EndReason::as_str),
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(answer).unwrap_or_default();
    json.push(b'\n');
    json
}
