//! `EventSource` in a real browser, over HTTP/1.1 and HTTP/2: its events, its reconnects, and when it stops.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::chromium::{Chromium, Tab};
use super::{Http, site, stream_request};
use crate::support::{Backend, CHUNKED, DEADLINE, chunk, eventually};

const BLANK: &str = "<!doctype html><title>test</title>";
const EXAMPLE: &str = include_str!("../../../../examples/clients/browser/index.html");

/// `listen(url)` opens an `EventSource` and keeps what it shows, in order.
const LISTEN: &str = "
window.listen = (url) => {
  const source = new EventSource(url);
  const shown = [];
  source.onopen = () => shown.push('open');
  source.onerror = () => shown.push(source.readyState === EventSource.CLOSED ? 'closed' : 'again');
  for (const name of ['message', 'tick', 'heartbeat'])
    source.addEventListener(name, (event) => shown.push([event.type, event.lastEventId, event.data].join(' ')));
  return { source, shown };
};";

/// A tab that can `listen`.
fn listening<'b>(chromium: &'b Chromium, origin: &str) -> Tab<'b> {
    let tab = chromium.open(&format!("{origin}/"));
    tab.run(LISTEN);
    tab
}

/// Streams that send one event and stay silent.
fn one_event_each() -> Backend {
    site(BLANK, |mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    })
}

#[test]
fn event_source_reconnects_with_its_last_event_id_after_every_kind_of_end_and_stops_at_204() {
    let Some(chromium) = Chromium::start() else { return };
    for http in [Http::One, Http::Two] {
        let backend = site(BLANK, |mut connection| {
            let head = connection.head.to_lowercase();
            let id = head.lines().find_map(|line| line.strip_prefix("last-event-id: ")).unwrap_or("0").to_owned();
            if id == "3" {
                return connection.send("HTTP/1.1 204 No Content\r\n\r\n");
            }
            let next = id.parse::<u32>().unwrap() + 1;
            connection.send(CHUNKED);
            connection.send(chunk(format!("retry: 20\nid: {next}\nevent: tick\ndata: {next}\n\n").as_bytes()));
            match next {
                1 => connection.send("0\r\n\r\n"),
                2 => {
                    // Chromium forgets what it has not shown of a stream by the time it learns that it is broken.
                    std::thread::sleep(Duration::from_millis(700));
                    connection.send("100\r\ndata: torn");
                }
                // Until the proxy ends it.
                _ => connection.hang(),
            }
        });
        let (proxy, origin) = http.front(&backend, "[{timeouts: {lifetime: 2s, lifetime_jitter: 0}}]");
        let tab = listening(&chromium, &origin);
        tab.run("window.events = listen('/events')");
        tab.until("events.shown.includes('closed')");
        let expected =
            json!(["open", "tick 1 1", "again", "open", "tick 2 2", "again", "open", "tick 3 3", "again", "closed"]);
        assert_eq!(tab.run("events.shown"), expected, "{http:?}");
        let ends: Vec<_> = (0..3).map(|_| proxy.log_line()["end"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ends, ["upstream_end", "upstream_broken", "lifetime"], "{http:?}");
        let answers = [200, 200, 200, 204].map(|status| (http.name().to_owned(), status));
        assert_eq!(tab.responses("/events"), answers);
        // The next request is another one: it has really stopped.
        for id in [None, Some("1"), Some("2"), Some("3")] {
            let head = stream_request(&backend).to_lowercase();
            assert_eq!(head.lines().find_map(|line| line.strip_prefix("last-event-id: ")), id, "{http:?}");
            assert!(head.contains("\r\naccept: text/event-stream\r\n"), "{head}");
        }
        tab.run("window.other = listen('/other')");
        tab.until("other.shown.length > 1");
        assert!(stream_request(&backend).starts_with("GET /other "));
    }
}

#[test]
fn event_source_stops_at_502_and_503() {
    let Some(chromium) = Chromium::start() else { return };
    let backend = site(BLANK, |mut connection| {
        // Otherwise closed without an answer: the proxy makes a 502 of it.
        if connection.path() == "/503" {
            connection.send("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for http in [Http::One, Http::Two] {
        let (_proxy, origin) = http.front(&backend, "[{}]");
        let tab = listening(&chromium, &origin);
        for (path, status) in [("/502", 502), ("/503", 503)] {
            tab.run(&format!("window.events = listen('{path}')"));
            tab.until("events.shown.length");
            assert_eq!(tab.run("events.shown"), json!(["closed"]), "{http:?}");
            assert_eq!(tab.responses(path), [(http.name().to_owned(), status)]);
        }
    }
}

#[test]
fn cors_headers_of_the_backend_apply_through_the_proxy() {
    let Some(chromium) = Chromium::start() else { return };
    let backend = site(BLANK, |mut connection| {
        let head = connection.head.clone();
        let origin = head.lines().find_map(|line| line.strip_prefix("origin: ").or(line.strip_prefix("Origin: ")));
        let allowed = match (connection.path(), origin) {
            ("/allowed", Some(origin)) => format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"),
            _ => String::new(),
        };
        connection.send(CHUNKED.replacen("\r\n\r\n", &format!("\r\n{allowed}\r\n"), 1));
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    for http in [Http::One, Http::Two] {
        let (_proxy, origin) = http.front(&backend, "[{}]");
        let (_page_proxy, page_origin) = http.front(&backend, "[{}]");
        let tab = listening(&chromium, &page_origin);
        tab.run(&format!("window.allowed = listen('{origin}/allowed'); window.other = listen('{origin}/other');"));
        tab.until("allowed.shown.length > 1 && other.shown.length");
        assert_eq!(tab.run("allowed.shown"), json!(["open", "message  a"]), "{http:?}");
        assert_eq!(tab.run("other.shown"), json!(["closed"]), "{http:?}");
    }
}

#[test]
fn the_seventh_stream_waits_over_http_1_1_and_twenty_are_open_over_http_2() {
    let Some(chromium) = Chromium::start() else { return };
    let backend = one_event_each();
    let open = "streams.filter(({ shown }) => shown.includes('message  a')).length";
    let listen = |count| format!("window.streams = Array.from({{ length: {count} }}, () => listen('/events'))");
    let active = "sse_proxy_streams_active{route=\"/\"}";

    let (proxy, origin) = Http::One.front(&backend, "[{}]");
    let (left, right) = (listening(&chromium, &origin), listening(&chromium, &origin));
    left.run(&listen(4));
    left.until(&format!("{open} === 4"));
    right.run(&listen(3));
    right.until(&format!("{open} === 2"));
    // Time enough for a seventh that does not have to wait: the six before it took less.
    right.run("new Promise((resolve) => setTimeout(resolve, 500))");
    assert_eq!(
        right.run(&format!("[{open}, streams.filter(({{ source }}) => source.readyState === 0).length]")),
        json!([2, 1])
    );
    assert_eq!(proxy.metric(active), Some(6.0));
    left.run("streams[0].source.close()");
    right.until(&format!("{open} === 3"));

    let (proxy, origin) = Http::Two.front(&backend, "[{}]");
    let (left, right) = (listening(&chromium, &origin), listening(&chromium, &origin));
    for tab in [&left, &right] {
        tab.run(&listen(10));
    }
    for tab in [&left, &right] {
        tab.until(&format!("{open} === 10"));
        assert_eq!(tab.responses("/events"), vec![("h2".to_owned(), 200); 10]);
    }
    assert_eq!(proxy.metric(active), Some(20.0));
}

#[test]
fn the_example_page_connects_once_and_disconnects_at_once() {
    let Some(chromium) = Chromium::start() else { return };
    let (closed, closings) = channel();
    let (closed, number) = (Mutex::new(closed), Arc::new(AtomicUsize::new(0)));
    let backend = site(EXAMPLE, move |mut connection| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        connection.send(CHUNKED);
        connection.send(chunk(b"id: 7\nevent: tick\ndata: <b>named</b>\n\ndata: plain\n\n"));
        let by_proxy = connection.closed_by_proxy();
        closed.lock().unwrap().send((number, by_proxy)).unwrap();
    });
    let mut number = 0;
    for http in [Http::One, Http::Two] {
        let (proxy, origin) = http.front(&backend, "[{heartbeat: {interval: 100ms, style: event}}]");
        let tab = chromium.open(&format!("{origin}/"));
        let text = |id: &str| tab.run(&format!("document.getElementById('{id}').textContent"));
        let state = |wanted: &str| tab.until(&format!("document.getElementById('state').dataset.state === '{wanted}'"));
        assert_eq!(text("state"), "disconnected");
        assert_eq!(tab.run("document.getElementById('url').value"), "/events?interval=1s&name=tick");
        tab.fill("#url", "/events");

        tab.click("#connect");
        state("connected");
        tab.until("document.getElementById('list').children.length > 2");
        let first = "[...document.getElementById('list').children].slice(-3).reverse().map((item) => \
                     ['name', 'id', 'data'].map((part) => item.querySelector(`.${part}`).textContent).join('|'))";
        assert_eq!(tab.run(first), json!(["tick|#7|<b>named</b>", "message|#7|plain", "heartbeat|#7|"]), "{http:?}");
        assert_eq!(text("last-id"), "7");
        assert_eq!(text("connections"), "1");

        // Pressed again: the first connection is closed, the second stays.
        tab.click("#connect");
        tab.until("document.getElementById('connections').textContent === '2'");
        assert_eq!(closings.recv_timeout(DEADLINE), Ok((number, true)), "{http:?}");
        assert_eq!(proxy.log_line()["end"], "client_gone");
        let active = || proxy.metric("sse_proxy_streams_active{route=\"/\"}");
        eventually("one stream is left", || (active() == Some(1.0)).then_some(()));

        tab.click("#disconnect");
        state("disconnected");
        assert_eq!(closings.recv_timeout(DEADLINE), Ok((number + 1, true)), "{http:?}");
        assert_eq!(proxy.log_line()["end"], "client_gone");
        assert_eq!(tab.responses("/events"), vec![(http.name().to_owned(), 200); 2]);

        // What it says when there is nothing to connect to.
        tab.fill("#url", "http://");
        tab.click("#connect");
        state("failed");
        number += 2;
    }
}

/// Also from a page of another origin, to which an answer without CORS fields would be a network error.
#[test]
fn event_source_survives_an_upstream_that_fails_where_the_route_says_so() {
    let Some(chromium) = Chromium::start() else { return };
    for http in [Http::One, Http::Two] {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let backend = site(BLANK, move |mut connection| {
            if connection.path() == "/again" && counted.fetch_add(1, Ordering::SeqCst) >= 2 {
                connection.send(CHUNKED.replacen("\r\n\r\n", "\r\nAccess-Control-Allow-Origin: *\r\n\r\n", 1));
                connection.send(chunk(b"data: a\n\n"));
                connection.hang();
            }
        });
        let routes = "[{match: {path: /}}, {match: {path: /never}}, \
                       {match: {path_prefix: /a}, on_unavailable: retry_later, retry_after: 20ms-40ms}]";
        let (proxy, origin) = http.front(&backend, routes);
        let (_page_proxy, page_origin) = http.front(&backend, "[{}]");
        for from in [&origin, &page_origin] {
            tries.store(0, Ordering::SeqCst);
            let tab = listening(&chromium, from);
            tab.run(&format!("window.events = listen('{origin}/again')"));
            tab.until("events.shown.includes('message  a')");
            let expected = json!(["open", "again", "open", "again", "open", "message  a"]);
            assert_eq!(tab.run("events.shown"), expected, "{http:?} from {from}");
            tab.run("events.source.close()");
        }
        let tab = listening(&chromium, &origin);
        tab.run("window.events = listen('/never')");
        tab.until("events.shown.length");
        assert_eq!(tab.run("events.shown"), json!(["closed"]), "{http:?}: without the key");
        // A `fetch` reads the status.
        let fetch = "fetch('/afar', { headers: { accept: 'text/event-stream' } }).then(({ status }) => status)";
        assert_eq!(tab.run(fetch), json!(502), "{http:?}");
        let failed =
            |route| format!("sse_proxy_upstream_failures_total{{route=\"{route}\",reason=\"upstream_broken\"}}");
        assert_eq!(
            [failed("/a"), failed("/never")].map(|name| proxy.metric(&name)),
            [Some(5.0), Some(1.0)],
            "{http:?}"
        );
    }
}
