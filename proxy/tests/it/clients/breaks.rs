//! How each client reports a broken stream and a clean end, checked against the table in the documentation.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::chromium::Chromium;
use super::libraries::{npm, pypi};
use super::{installed, npm_folder, run, say_skipped, script};
use crate::support::{Backend, CHUNKED, Certificate, Connection, Proxy, chunk};

/// Where the upstream breaks off: before the first event, after an event, within an event; and a clean end.
const KINDS: [&str; 4] = ["first", "between", "within", "clean"];

/// The Nodes of the table.
const NODES: [&str; 4] = ["18", "20", "22", "24"];

/// How a client reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Plain,
    Tls,
    /// Over TLS.
    Http2,
}

/// The table's columns, in order.
const COLUMNS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::Http2];

/// A proxy in front of streams that break.
struct Streams {
    plain: Proxy,
    tls: Proxy,
    _certificate: Certificate,
    _backend: Backend,
}

impl Streams {
    fn start() -> Self {
        let backend = Backend::start(stream);
        let config =
            format!("upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{stream: always}}]\n", backend.address);
        let certificate = Certificate::new();
        let listener = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
        Self {
            plain: Proxy::start_with(&config),
            tls: Proxy::start_listening(&listener, &config),
            _certificate: certificate,
            _backend: backend,
        }
    }

    fn origin(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Plain => format!("http://{}", self.plain.address),
            Protocol::Tls | Protocol::Http2 => format!("https://localhost:{}", self.tls.address.port()),
        }
    }

    fn urls(&self, protocol: Protocol) -> Vec<String> {
        KINDS.map(|kind| format!("{}/{kind}", self.origin(protocol))).into()
    }

    /// Runs a client over each of its protocols, and checks its row in the documentation.
    fn check(&self, client: &str, protocols: &[Protocol], read: impl Fn(Protocol, &[String]) -> Value) {
        let cells = COLUMNS.map(|protocol| {
            if !protocols.contains(&protocol) {
                return "–".to_owned();
            }
            let seen = read(protocol, &self.urls(protocol));
            outcome(&KINDS.map(|kind| &seen[format!("{}/{kind}", self.origin(protocol))]))
        });
        let row = format!("| {client} | {} |", cells.join(" | "));
        let page = include_str!("../../../../docs/clients.md");
        assert!(page.lines().any(|line| line == row), "docs/clients.md has no such row:\n{row}");
    }
}

/// Events as OpenAI's and Anthropic's servers send them, each with the text `a` or `b` in it.
fn event(connection: &Connection, text: &str) -> String {
    if connection.path().ends_with("/messages") {
        let data =
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text } });
        return format!("event: content_block_delta\ndata: {data}\n\n");
    }
    let choice = json!({ "index": 0, "delta": { "content": text }, "finish_reason": null });
    let data = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice] });
    format!("data: {data}\n\n")
}

fn stream(mut connection: Connection) {
    if matches!(connection.path(), "/" | "/favicon.ico") {
        return connection.answer("text/html", "<!doctype html><title>test</title>");
    }
    connection.read_body();
    let kind = connection.path().split('/').nth(1).unwrap_or_default().to_owned();
    let [a, b] = ["a", "b"].map(|text| event(&connection, text));
    connection.send(CHUNKED);
    match kind.as_str() {
        "first" => {}
        "between" => connection.send(chunk(a.as_bytes())),
        "within" => connection.send(chunk(format!("{a}{}", &b[..b.len() / 2]).as_bytes())),
        _ => connection.send([&chunk(format!("{a}{b}").as_bytes())[..], b"0\r\n\r\n"].concat()),
    }
}

/// A cell of the table: every break is an error, and what came before it is there.
fn outcome([first, between, within, clean]: &[&Value; 4]) -> String {
    let has =
        |seen: &Value, text: &str| seen["text"].as_str().unwrap_or_else(|| panic!("not seen: {seen}")).contains(text);
    if !clean["error"].is_null() || !has(clean, "b") {
        return format!("**an end in order fails**: {clean}");
    }
    let breaks = [first, between, within];
    let quiet = breaks.iter().filter(|seen| seen["error"].is_null()).count();
    match quiet {
        0 if has(between, "a") && has(within, "a") => "error".to_owned(),
        0 => "error, **the last event is lost**".to_owned(),
        3 => "**looks complete**".to_owned(),
        _ => format!("**{quiet} of 3 look complete**"),
    }
}

/// A version of Node, and its name in the table.
fn node_of(version: &str) -> Option<(PathBuf, String)> {
    let program = installed(&format!("nodes/{version}/node_modules/node/bin/node"))?;
    Some((program, format!("Node {version}")))
}

#[test]
fn fetch_and_the_http_modules_of_every_node() {
    let Some(modules) = npm_folder() else { return };
    let streams = Streams::start();
    for (program, name) in NODES.iter().filter_map(|version| node_of(version)) {
        let read = |reader: &'static str| {
            let (program, modules) = (&program, &modules);
            move |_: Protocol, urls: &[String]| {
                run(Command::new(program).arg(script("breaks.mjs")).arg(modules).arg(reader).args(urls))
            }
        };
        streams.check(&format!("`fetch` in {name}"), &[Protocol::Plain, Protocol::Tls], read("fetch"));
        streams.check(&format!("`http`, `https` in {name}"), &[Protocol::Plain, Protocol::Tls], read("http"));
        streams.check(&format!("`http2` in {name}"), &[Protocol::Http2], read("http2"));
    }
}

#[test]
fn the_sdks_for_node_in_node_20() {
    let (Some(modules), Some((program, _))) = (npm_folder(), node_of("20")) else { return };
    let streams = Streams::start();
    for (reader, package) in [("openai", "openai"), ("anthropic", "@anthropic-ai/sdk")] {
        streams.check(&format!("{} in Node 20", npm(package)), &[Protocol::Plain], |_, urls| {
            // The SDK adds its own path to the base.
            run(Command::new(&program).arg(script("breaks.mjs")).arg(&modules).arg(reader).args(urls))
        });
    }
}

#[test]
fn python() {
    let Some(python) = installed("python/bin/python") else { return };
    let streams = Streams::start();
    let both = [Protocol::Plain, Protocol::Tls];
    for (reader, client, protocols) in [
        ("requests", pypi("requests"), &both[..]),
        ("httpx", pypi("httpx"), &COLUMNS),
        ("urllib3", pypi("urllib3"), &both),
        ("urllib", "`urllib.request`, by lines".to_owned(), &both),
        ("aiohttp", pypi("aiohttp"), &both),
        ("openai", format!("OpenAI for Python, {}", pypi("openai")), &both[..1]),
        ("anthropic", format!("Anthropic for Python, {}", pypi("anthropic")), &both[..1]),
    ] {
        streams.check(&client, protocols, |protocol, urls| {
            let reader = if protocol == Protocol::Http2 { format!("{reader}-http2") } else { reader.to_owned() };
            run(Command::new(&python).arg(script("breaks.py")).arg(reader).args(urls))
        });
    }
}

#[test]
fn java() {
    let Some(java) = on_path("java") else { return };
    let streams = Streams::start();
    for (reader, protocols) in
        [("HttpClient", &[Protocol::Plain, Protocol::Http2]), ("HttpURLConnection", &[Protocol::Plain, Protocol::Tls])]
    {
        streams.check(&format!("`{reader}` of Java"), protocols, |_, urls| {
            run(Command::new(&java).arg(script("Breaks.java")).arg(reader).args(urls))
        });
    }
}

#[test]
fn go() {
    let Some(go) = on_path("go") else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("breaks");
    let built = Command::new(go).args(["build", "-o"]).args([&program, &script("breaks.go")]).status().unwrap();
    assert!(built.success());
    Streams::start().check("`net/http` of Go", &[Protocol::Plain, Protocol::Http2], |_, urls| {
        run(Command::new(&program).args(urls))
    });
}

#[test]
fn curl() {
    let streams = Streams::start();
    let read = |version: &'static str| {
        move |_: Protocol, urls: &[String]| {
            // HTTP/1.0 over TLS is for clients without ALPN.
            let alpn = if version == "--http1.0" { "--no-alpn" } else { "--alpn" };
            let mut seen = Map::new();
            for url in urls {
                let mut curl = Command::new("curl");
                curl.args(["-sSNk", "--max-time", "20", version, alpn, "-H", "Accept: text/event-stream", url]);
                let output = curl.output().unwrap();
                let error = (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned());
                seen.insert(url.clone(), json!({ "text": String::from_utf8_lossy(&output.stdout), "error": error }));
            }
            Value::Object(seen)
        }
    };
    streams.check("`curl -N --http1.0`", &[Protocol::Plain, Protocol::Tls], read("--http1.0"));
    streams.check("`curl -N`", &[Protocol::Plain, Protocol::Tls], read("--http1.1"));
    streams.check("`curl -N --http2`", &[Protocol::Http2], read("--http2"));
}

#[test]
fn chromium() {
    let Some(browser) = Chromium::start() else { return };
    Streams::start().check("`fetch` in Chromium", &[Protocol::Plain, Protocol::Http2], |_, urls| {
        let origin = urls[0].rsplit_once('/').unwrap().0;
        let tab = browser.open(&format!("{origin}/"));
        tab.run(&format!(
            "Promise.all({}.map(async (url) => {{
               let text = '';
               const read = async () => {{
                 const response = await fetch(url);
                 const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
                 for (let read; !(read = await reader.read()).done; ) text += read.value;
               }};
               const error = await read().then(() => null, ({{ message }}) => message);
               return [url, {{ text, error }}];
             }})).then(Object.fromEntries)",
            json!(urls)
        ))
    });
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.or_else(|| say_skipped(program))
}
