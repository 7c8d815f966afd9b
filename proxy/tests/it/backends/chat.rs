//! The API of a model server (`examples/backends/fastapi/chat.py`): POST, no `Accept`, long silences.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::example::{Example, Pace};
use super::{NOTICED, clients};
use crate::clients::{installed, npm_folder, run, script};
use crate::support::{Client, Program, Proxy, dechunk, nginx_in_front_of};

struct Server {
    backend: Example,
    addresses: [(&'static str, SocketAddr); 2],
    _proxy: Proxy,
    _nginx: (Program, tempfile::TempDir),
}

fn server() -> Option<Server> {
    server_with("{}")
}

fn server_with(timeouts: &str) -> Option<Server> {
    let backend = Example::start("fastapi", Pace::ENDLESS)?;
    let route = format!("    stream: always\n    heartbeat: {{interval: 60ms}}\n    timeouts: {timeouts}");
    let proxy = Proxy::start(backend.address, &route);
    let (nginx, front, directory) = nginx_in_front_of(proxy.address);
    let addresses = [("proxy", proxy.address), ("nginx and proxy", front)];
    Some(Server { backend, addresses, _proxy: proxy, _nginx: (nginx, directory) })
}

/// Requests a completion for "one two three", with additional keys.
fn ask(address: SocketAddr, more: Value) -> Client {
    let mut body = json!({"model": "parrot-1", "messages": [{"role": "user", "content": "one two three"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = body.to_string();
    let mut client = Client::connect(address);
    client.send(&format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client
}

/// The body of a response that is not a stream.
fn json_of(mut client: Client, status: u16) -> Value {
    let head = client.read_head();
    assert_eq!(head.status, status, "{head:?}");
    assert_eq!(head.header("content-type").as_deref(), Some("application/json"));
    let parsed = |bytes: &[u8]| match head.header("content-length") {
        Some(length) => (bytes.len() == length.parse::<usize>().unwrap()).then(|| bytes.to_vec()),
        None => Some(dechunk(bytes)).filter(|(_, end)| end.is_some()).map(|(body, _)| body),
    };
    let bytes = client.read_until(|bytes| parsed(bytes).is_some());
    serde_json::from_slice(&parsed(bytes).unwrap()).unwrap()
}

#[test]
fn tokens_arrive_in_order_and_silence_before_and_between_them_has_heartbeats() {
    let Some(server) = server() else { return };
    for (path, address) in server.addresses {
        let mut client = ask(address, json!({"stream": true, "thinking_ms": 400, "pause_ms": 200}));
        let head = client.read_head();
        assert_eq!(head.status, 200, "{path}: {head:?}");
        let body = client.read_until_body_has("data: [DONE]\n\n");
        let first = body.find("data: ").unwrap();
        assert!(first > 0 && body[..first].replace(":\n\n", "").is_empty(), "{path}: heartbeats come first: {body:?}");
        assert!(body[first..].contains("\n\n:\n\ndata: "), "{path}: and between tokens: {body:?}");
        let events = body.replace(":\n\n", "");
        let mut blocks: Vec<&str> = events.split_terminator("\n\n").collect();
        assert_eq!(blocks.pop(), Some("data: [DONE]"), "{path}");
        let chunks: Vec<Value> =
            blocks.iter().map(|block| serde_json::from_str(block.strip_prefix("data: ").unwrap()).unwrap()).collect();
        let tokens = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(tokens.collect::<String>(), "You said: one two three", "{path}");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop", "{path}");
    }
}

/// The heartbeat styles that the SDKs ignore.
#[test]
fn the_openai_sdks_work_with_heartbeats_in_pauses() {
    let Some(backend) = Example::start("fastapi", Pace::ENDLESS) else { return };
    let (Some(packages), Some(python)) = (npm_folder(), installed("python/bin/python")) else { return };
    for style in ["comment", "comment_line"] {
        let route = format!("    stream: always\n    heartbeat: {{interval: 50ms, style: {style}}}");
        let proxy = Proxy::start(backend.address, &route);
        let url = format!("http://{}/v1", proxy.address);
        let (mut by_node, mut by_python) = (Command::new("node"), Command::new(&python));
        by_node.arg(script("chat.mjs")).arg(&packages).args([&url, "150"]);
        by_python.arg(script("chat.py")).args([&url, "150"]);
        for command in [by_node, by_python] {
            let answers = run(&command);
            let said = "You said: one two three";
            assert_eq!(answers, json!({"streamed": said, "whole": said, "error": "model_not_found"}), "{style}");
            let stream = proxy.log_line();
            // There were six silences.
            assert!(stream["heartbeats"].as_u64().unwrap() >= 3, "{style}: {stream}");
            assert_eq!(stream["path"], "/v1/chat/completions");
        }
    }
}

#[test]
fn other_responses_pass_on_a_stream_route() {
    let Some(server) = server() else { return };
    for (path, address) in server.addresses {
        let answer = json_of(ask(address, json!({})), 200);
        assert_eq!(answer["choices"][0]["message"]["content"], "You said: one two three", "{path}");
        assert_eq!(answer["usage"]["total_tokens"], 8, "{path}");
        let error = json_of(ask(address, json!({"model": "gone", "stream": true})), 404);
        assert_eq!(error["error"]["code"], "model_not_found", "{path}");
    }
}

#[test]
fn the_model_stops_when_its_client_disconnects_before_the_first_token() {
    let Some(server) = server() else { return };
    for (path, address) in server.addresses {
        let mut client = ask(address, json!({"stream": true, "thinking_ms": 600_000}));
        assert_eq!(client.read_head().status, 200, "{path}");
        clients(&server.backend, 1);
        drop(client);
        let took = clients(&server.backend, 0);
        assert!(took < NOTICED, "{path}: noticed after {took:?}");
    }
}

#[test]
fn a_queue_longer_than_first_byte_is_answered_with_504() {
    let Some(server) = server_with("{first_byte: 500ms}") else { return };
    for (path, address) in server.addresses {
        let mut client = ask(address, json!({"stream": true, "queue_ms": 10_000}));
        assert_eq!(client.read_head().status, 504, "{path}");
    }
}
