//! What real clients make of a refusal: `EventSource` comes back by itself, and `fetch` reads when to try again.

use std::process::Command;

use serde_json::json;

use super::chromium::Chromium;
use super::{Http, npm_folder, run, script, site};
use crate::support::{Backend, CHUNKED, Proxy, chunk};

const PAGE: &str = "<!doctype html><title>test</title><script>
window.listen = (url) => {
  const source = new EventSource(url), shown = [];
  source.onopen = () => shown.push('open');
  source.onerror = () => shown.push(source.readyState === EventSource.CLOSED ? 'closed' : 'again');
  source.onmessage = ({ data }) => shown.push(data);
  return { source, shown };
};
window.ask = async (url) => {
  const response = await fetch(url, { headers: { accept: 'text/event-stream' } });
  return [response.status, response.headers.get('retry-after')];
};
</script>";

#[test]
fn event_source_in_a_browser_comes_back_after_a_limit_and_fetch_is_told_when() {
    let Some(chromium) = Chromium::start() else { return };
    for http in [Http::One, Http::Two] {
        let backend = site(PAGE, |mut connection| {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
            connection.hang();
        });
        let (_proxy, origin) = http.front(&backend, "[{retry_after: 100ms-200ms, limits: {streams: 1}}]");
        let tab = chromium.open(&format!("{origin}/"));
        tab.run("window.first = listen('/first')");
        tab.until("first.shown.includes('a')");
        tab.run("window.second = listen('/second')");
        tab.until("second.shown.filter((what) => what === 'again').length > 2");
        assert_eq!(tab.run("second.shown.slice(0, 4)"), json!(["open", "again", "open", "again"]), "{http:?}");
        // A page of another origin: the same proxy under another name.
        if let Http::One = http {
            let other = origin.replace("127.0.0.1", "localhost");
            tab.run(&format!("window.other = listen('{other}/other')"));
            tab.until("other.shown.filter((what) => what === 'again').length > 2");
            assert_eq!(tab.run("other.shown.includes('closed')"), json!(false));
            tab.run("other.source.close()");
        }
        tab.run("ask('/third').then((answer) => { window.answer = answer; })");
        tab.until("window.answer !== undefined");
        assert_eq!(tab.run("answer"), json!([503, "1"]), "{http:?}");
        tab.run("first.source.close()");
        tab.until("second.shown.includes('a')");
        assert_eq!(tab.run("second.shown.includes('closed')"), json!(false), "{http:?}");
    }
}

/// What `auto` takes for an `EventSource`, as libraries for Node send it.
#[test]
fn event_source_libraries_are_told_from_fetch() {
    let Some(modules) = npm_folder() else { return };
    let backend = Backend::answering(vec![CHUNKED.into(), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()]);
    let proxy = Proxy::start(backend.address, "");
    for (reader, is_event_source) in [("eventsource", true), ("extended-eventsource", true), ("fetch", false)] {
        let mut command = Command::new("node");
        run(command
            .arg(script("readers.mjs"))
            .arg(&modules)
            .arg(reader)
            .arg(format!("http://{}/events", proxy.address)));
        let head = backend.request().to_lowercase();
        let sends = |field: &str| head.contains(&format!("\r\n{field}\r\n"));
        let found = head.starts_with("get ") && sends("accept: text/event-stream") && sends("cache-control: no-cache");
        assert_eq!(found, is_event_source, "{reader}: {head}");
    }
}
