//! How each client handles each style of heartbeat, checked against the table in the documentation.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::support::{Backend, CHUNKED, Connection, Proxy, chunk, eventually};

/// The table's columns: a path, and the style and payload of its heartbeats.
const STYLES: [(&str, &str, &str); 5] = [
    ("comment", "comment", ""),
    ("comment_line", "comment_line", ""),
    ("event", "event", ""),
    ("event_json", "event", "{}"),
    ("data_json", "data", "{}"),
];
/// Streams whose events carry ids, and streams whose events do not, as those of model servers.
const KINDS: [&str; 2] = ["plain", "ids"];

/// A stream of each style and kind, at `/PATH/KIND`: silence, a chunk of a chat, silence, another, silence, and the mark
/// that ends a chat. Every silence lasts until there has been a heartbeat in it.
pub(super) struct Streams {
    pub(super) proxy: Proxy,
    _backend: Backend,
}

impl Streams {
    /// `files` answers what is not a stream.
    pub(super) fn start(files: impl Fn(&mut Connection) -> bool + Send + Sync + 'static) -> Self {
        let admin = Arc::new(OnceLock::new());
        let asked = admin.clone();
        let backend = Backend::start(move |mut connection| {
            if !files(&mut connection) {
                let admin = eventually("the proxy has started", || asked.get().copied());
                stream(connection, admin);
            }
        });
        let route = |(path, style, payload), kind| {
            format!(
                "  - match: {{path_prefix: /{path}/{kind}}}\n    stream: always\n    \
                     heartbeat: {{interval: 40ms, style: {style}, payload: '{payload}'}}\n"
            )
        };
        let routes: String = STYLES.iter().flat_map(|style| KINDS.map(|kind| route(*style, kind))).collect();
        let upstreams = format!("upstreams: {{app: {{servers: ['{}']}}}}", backend.address);
        let proxy = Proxy::start_with(&format!("{upstreams}\nroutes:\n{routes}  - stream: never\n"));
        admin.set(proxy.admin).unwrap();
        Self { proxy, _backend: backend }
    }

    pub(super) fn urls(&self) -> Vec<String> {
        let of = |path: &str| KINDS.map(|kind| format!("http://{}/{path}/{kind}", self.proxy.address));
        STYLES.iter().flat_map(|(path, ..)| of(path)).collect()
    }

    /// The cells of the table for a client that printed `seen` for each URL.
    pub(super) fn cells(&self, seen: &Value) -> Vec<String> {
        let mut streams = 0;
        let cells = STYLES.map(|(path, ..)| {
            let [plain, ids] = KINDS.map(|kind| {
                streams += 1;
                outcome(&seen[format!("http://{}/{path}/{kind}", self.proxy.address)])
            });
            if plain == ids { plain } else { format!("{plain}; with ids: {ids}") }
        });
        // A test that fails shows this: a stream that did not begin has no line in the log.
        eprintln!("the client saw: {seen}");
        // Whatever it showed of them, they were there.
        let heartbeats: BTreeMap<String, u64> = (0..streams)
            .map(|_| self.proxy.log_line())
            .map(|line| (line["route"].as_str().unwrap().to_owned(), line["heartbeats"].as_u64().unwrap()))
            .collect();
        assert_eq!(heartbeats.len(), STYLES.len() * KINDS.len(), "{heartbeats:?}");
        assert!(heartbeats.values().all(|count| *count > 0), "{heartbeats:?}");
        cells.into()
    }
}

fn stream(mut connection: Connection, admin: std::net::SocketAddr) {
    connection.read_body();
    let path = connection.path().to_owned();
    // What Google's SDKs ask for is answered as Gemini does.
    let is_gemini = path.contains(":streamGenerateContent");
    let route = path.split('/').take(3).collect::<Vec<_>>().join("/");
    let name = format!("sse_proxy_heartbeats_total{{route=\"{route}\"}}");
    let heartbeats = || Proxy::metric_at(admin, &name).unwrap_or_default();
    connection.send(CHUNKED);
    for (number, data) in [(1, "a"), (2, "b"), (3, "[DONE]")] {
        let before = heartbeats();
        // A client that fails disconnects, which ends the wait.
        eventually("a heartbeat", || (heartbeats() > before || connection.closed()).then_some(()));
        // Gemini gives its events no ids, and its SDKs know none.
        let id = if path.contains("/ids") && !is_gemini { format!("id: {number}\n") } else { String::new() };
        let finish_reason = (number == 2).then_some("stop");
        let choice = json!({ "index": 0, "delta": { "content": data }, "finish_reason": finish_reason });
        let piece =
            json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice] });
        let data = match number {
            // Gemini ends without a mark.
            3 if is_gemini => break,
            3 => data.to_owned(),
            _ if is_gemini => {
                let content = json!({ "role": "model", "parts": [{ "text": data }] });
                json!({ "candidates": [{ "content": content, "index": 0 }] }).to_string()
            }
            _ => piece.to_string(),
        };
        connection.send(chunk(format!("{id}data: {data}\n\n").as_bytes()));
    }
    connection.send("0\r\n\r\n");
}

/// What a client showed beside the two chunks, in the words of the table.
fn outcome(seen: &Value) -> String {
    let mut chunks = Vec::new();
    let mut others = Vec::new();
    for item in seen["seen"].as_array().unwrap_or_else(|| panic!("not seen at all: {seen}")) {
        let other = match (item[0].as_str().unwrap(), item[1].as_str().unwrap()) {
            ("", text @ ("a" | "b")) => {
                chunks.push(text);
                continue;
            }
            ("", "") => "an empty message".to_owned(),
            ("", data) => format!("message `{data}`"),
            (name, _) => format!("event `{name}`"),
        };
        if !others.contains(&other) {
            others.push(other);
        }
    }
    if let Some(error) = seen["error"].as_str() {
        return format!("**fails**: `{error}`");
    }
    if chunks != ["a", "b"] {
        return "**loses events**".to_owned();
    }
    if others.is_empty() { "not seen".to_owned() } else { others.join(", ") }
}

const PAGE: &str = include_str!("../../../../docs/heartbeats.md");

/// Checks the documentation against the result.
pub(super) fn check_row(client: &str, cells: &[String]) {
    let row = format!("| {client} | {} |", cells.join(" | "));
    assert!(PAGE.lines().any(|line| line == row), "docs/heartbeats.md has no such row:\n{row}");
}

/// The first column of the table in the documentation.
pub(super) fn documented_clients() -> Vec<&'static str> {
    let rows = PAGE.lines().skip_while(|line| !line.starts_with("| client |")).skip(2);
    rows.map_while(|line| line.strip_prefix("| ")?.split_once(" | ").map(|(client, _)| client)).collect()
}
