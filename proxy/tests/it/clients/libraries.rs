//! The libraries that read event streams, on streams with heartbeats of each style.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::chromium::Chromium;
use super::styles::{Streams, check_row, documented_clients};
use super::{installed, npm_folder, run, script};
use crate::support::Connection;

const NODE_LOCK: &str = include_str!("../../clients/package-lock.json");
const PYTHON_LOCK: &str = include_str!("../../clients/requirements.txt");

/// `NAME VERSION`, as the table calls a package of npm.
pub(super) fn npm(name: &str) -> String {
    let lock: Value = serde_json::from_str(NODE_LOCK).unwrap();
    let version = lock["packages"][format!("node_modules/{name}")]["version"].as_str().unwrap().to_owned();
    format!("`{name}` {version}")
}

/// The same for a package of PyPI.
pub(super) fn pypi(name: &str) -> String {
    let version = PYTHON_LOCK.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("==")).unwrap();
    format!("`{name}` {version}")
}

fn no_files(_: &mut Connection) -> bool {
    false
}

fn node(reader: &str, client: &str) {
    let Some(modules) = npm_folder() else { return };
    let streams = Streams::start(no_files);
    let mut command = Command::new("node");
    let seen = run(command.arg(script("readers.mjs")).arg(modules).arg(reader).args(streams.urls()));
    check_row(client, &streams.cells(&seen));
}

fn python(reader: &str, client: &str) {
    let Some(python) = installed("python/bin/python") else { return };
    let streams = Streams::start(no_files);
    let mut command = Command::new(python);
    let seen = run(command.arg(script("readers.py")).arg(reader).args(streams.urls()));
    check_row(client, &streams.cells(&seen));
}

/// How the table calls the clients of these tests.
fn clients() -> [String; 14] {
    [
        "`EventSource` in browsers".to_owned(),
        npm("eventsource"),
        npm("@microsoft/fetch-event-source"),
        "`fetch`, lines that begin with `data:`".to_owned(),
        r"`fetch`, blocks between `\n\n`, those that begin with `:` skipped".to_owned(),
        format!("OpenAI for Node, {}", npm("openai")),
        format!("OpenAI for Python, {}", pypi("openai")),
        pypi("httpx-sse"),
        "`curl -N`".to_owned(),
        format!("AI SDK, {} with {}", npm("ai"), npm("@ai-sdk/openai-compatible")),
        format!("Google for Node, {}", npm("@google/genai")),
        format!("Google for Python, {}", pypi("google-genai")),
        npm("extended-eventsource"),
        pypi("sseclient"),
    ]
}

#[test]
fn the_table_has_the_clients_of_these_tests_and_no_other() {
    assert_eq!(documented_clients(), clients());
}

#[test]
fn the_openai_sdk_for_node() {
    node("openai", &clients()[5]);
}

#[test]
fn the_openai_sdk_for_python() {
    python("openai", &clients()[6]);
    python("openai-async", &clients()[6]);
}

#[test]
fn the_ai_sdk() {
    node("ai", &clients()[9]);
}

#[test]
fn the_google_sdk_for_node() {
    node("genai", &clients()[10]);
}

#[test]
fn the_google_sdk_for_python() {
    python("genai", &clients()[11]);
}

#[test]
fn extended_eventsource_for_node() {
    node("extended-eventsource", &clients()[12]);
}

#[test]
fn sseclient_for_python() {
    python("sseclient", &clients()[13]);
}

#[test]
fn eventsource_for_node() {
    node("eventsource", &clients()[1]);
}

#[test]
fn fetch_and_lines_that_begin_with_data() {
    node("fetch", &clients()[3]);
}

#[test]
fn fetch_and_blocks_between_blank_lines() {
    node("blocks", &clients()[4]);
}

#[test]
fn httpx_sse_for_python() {
    python("httpx-sse", &clients()[7]);
}

#[test]
fn curl_prints_what_it_gets() {
    let streams = Streams::start(no_files);
    let mut seen = Map::new();
    for url in streams.urls() {
        let output = Command::new("curl").args(["-sS", "-N", "--max-time", "20", &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let marks = [
            ("/comment/", ":\n\n"),
            ("/comment_line/", ":\n"),
            ("/event/", "event: heartbeat\ndata: \n\n"),
            ("/event_json/", "event: heartbeat\ndata: {}\n\n"),
            ("/data_json/", "data: {}\n\n"),
        ];
        let (_, mark) = marks.iter().find(|(path, _)| url.contains(path)).unwrap();
        assert!(text.starts_with(mark), "{url}: {text:?}");
        seen.insert(url, json!(text));
    }
    assert_eq!(seen.len(), 10);
    check_row(&clients()[8], &["printed"; 5].map(str::to_owned));
}

/// Runs an expression with `url` and `see(name, data)` in a page, for every stream, until each has been read.
fn chromium(chromium: &Chromium, streams: &Streams, expression: &str) -> Value {
    let tab = chromium.open(&format!("http://{}/", streams.proxy.address));
    let read = format!(
        "Promise.all({}.map(async (url) => {{
           const [seen, text] = [[], (data) => {{ try {{ return JSON.parse(data).choices[0].delta.content }} catch {{ return data }} }}];
           const see = (name, data) => seen.push([name, text(data)]);
           const error = await ({expression})(url, see).then(() => null, (error) => error.name);
           return [url, {{ seen, error }}];
         }})).then(Object.fromEntries)",
        json!(streams.urls())
    );
    tab.run(&read)
}

/// A page, and the modules of `fetch-event-source` as npm has them: they name each other without `.js`.
fn page_and_modules(folder: PathBuf) -> impl Fn(&mut Connection) -> bool + Send + Sync {
    move |connection| {
        let path = connection.path().to_owned();
        if let Some(module) = path.strip_prefix("/modules/") {
            let file =
                folder.join("node_modules/@microsoft/fetch-event-source/lib/esm").join(module).with_extension("js");
            connection.answer("text/javascript", &std::fs::read_to_string(file).unwrap());
        } else if path == "/" || path == "/favicon.ico" {
            connection.answer("text/html", "<!doctype html><title>test</title>");
        } else {
            return false;
        }
        true
    }
}

#[test]
fn event_source_and_fetch_event_source_in_chromium() {
    let (Some(browser), Some(modules)) = (Chromium::start(), npm_folder()) else { return };
    let streams = Streams::start(page_and_modules(modules));
    // Six at a time over HTTP/1.1: the others wait for their turn.
    let event_source = "(url, see) => new Promise((resolve, reject) => {
      const source = new EventSource(url);
      const add = ({ type, data }) => {
        if (data !== '[DONE]') return see(type === 'message' ? '' : type, data);
        source.close();
        resolve();
      };
      for (const name of ['message', 'heartbeat']) source.addEventListener(name, add);
      source.onerror = () => { source.close(); reject(new Error('onerror')); };
    })";
    let seen = chromium(&browser, &streams, event_source);
    check_row(&clients()[0], &streams.cells(&seen));

    let fetch_event_source = "async (url, see) => {
      const { fetchEventSource } = await import('/modules/index');
      const done = new AbortController();
      const onmessage = ({ event, data }) => data === '[DONE]' ? done.abort() : see(event, data);
      const onerror = (error) => { throw error; };
      await fetchEventSource(url, { method: 'POST', body: '{}', signal: done.signal, openWhenHidden: true, onmessage, onerror });
    }";
    let seen = chromium(&browser, &streams, fetch_event_source);
    check_row(&clients()[2], &streams.cells(&seen));
}
