//! Clients whose upstream fails, on a route with `on_unavailable: retry_later`: which of them come back.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;

use serde_json::json;

use super::{Http, npm_folder, run, script};
use crate::support::{Backend, CHUNKED, chunk};

#[test]
fn an_event_source_in_node_comes_back_and_fetch_reads_the_status() {
    let Some(modules) = npm_folder() else { return };
    let asked = Mutex::new(HashSet::new());
    let backend = Backend::start(move |mut connection| {
        let is_first = asked.lock().unwrap().insert(connection.path().to_owned());
        if !is_first {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
            connection.hang();
        }
    });
    let (_proxy, origin) = Http::One.front(&backend, "[{on_unavailable: retry_later, retry_after: 20ms-40ms}]");
    let seen = run(Command::new("node").arg(script("unavailable.mjs")).arg(modules).arg(origin));
    let expected = json!({"eventsource": "a", "fetch": 502, "fetch without a cache": 200, "fetch-event-source": 502});
    assert_eq!(seen, expected);
}
