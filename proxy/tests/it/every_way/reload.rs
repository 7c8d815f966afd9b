//! A reload on every request path.

use crate::support::{CHUNKED, Request, Setup, chunk, eventually};

/// Streams keep the rules that they began with, and nothing of them is lost; requests that come later see the new file.
#[test]
fn a_reload_leaves_running_streams_alone_and_new_requests_see_the_new_file() {
    let setup = Setup::new(|mut connection| {
        if connection.path() == "/page" {
            return connection.answer("text/plain", "a page");
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        if connection.path() == "/old" {
            connection.wait_for_test();
            connection.send(chunk(b"data: b\n\n"));
            connection.send("0\r\n\r\n");
        } else {
            connection.hang();
        }
    });
    setup.route("heartbeat: {interval: 0}").check(|case| {
        let old: Vec<_> = (0..3).map(|_| case.stream("/old")).collect();
        old.iter().for_each(|stream| drop(stream.until_has("data: a\n\n")));
        assert_eq!(case.send(Request::get("/page")).whole(), b"a page");
        case.proxy.edit("interval: 0", "interval: 20ms, payload: renewed");
        assert!(case.proxy.hang_up(), "the file is valid");

        let new = case.stream("/new");
        new.until_has("data: a\n\n: renewed\n\n: renewed\n\n");
        // A route of its own, in front of the other.
        case.proxy.edit("[{upstream: app,", "[{match: {path_prefix: /page}, stream: never}, {upstream: app,");
        assert_eq!(case.proxy.reload(), "reloaded\nroutes: added /page\n");
        assert_eq!(case.send(Request::get("/page")).whole(), b"a page");
        new.until("the stream that began between the reloads", |body| {
            body.windows(9).filter(|at| at == b"renewed\n\n").count() > 4
        });

        case.backend.proceed(3);
        for stream in old {
            assert_eq!(stream.whole(), b"data: a\n\ndata: b\n\n", "no heartbeat, nothing lost, nothing twice");
        }
        drop(new);
        let closed = || (case.metric("sse_proxy_streams_active", "") == Some(0.0)).then_some(());
        eventually("all streams have ended", closed);
        assert_eq!(case.metric("sse_proxy_streams_opened_total", ""), Some(4.0), "the route's counters go on");
        assert_eq!(case.metric("sse_proxy_streams_ended_total", "reason=\"upstream_end\""), Some(3.0));
    });
}

/// Invariant: limits on clients hold for requests after a reload. Mechanism: connections, listeners and sessions each had a
/// copy of them. Symptom: a limit was old on one path and new on another.
#[test]
fn limits_and_trusted_proxies_of_a_reload_hold_for_the_next_request() {
    let setup = Setup::new(|mut connection| {
        let forwarded = connection.head.to_lowercase().contains("x-forwarded-for: 192.0.2.1");
        connection.answer("text/plain", if forwarded { "trusted" } else { "not trusted" });
    });
    setup.route("stream: accept").rest("client: {limits: {fields: 50}}\ndrain: {timeout: 2m}\n").check(|case| {
        let fields =
            |count: usize| (0..count).fold(Request::stream("/"), |request, at| request.field(&format!("x-{at}"), "1"));
        let client = || case.send(Request::stream("/").field("x-forwarded-for", "192.0.2.1")).whole();
        assert_eq!(client(), b"trusted");
        assert_eq!(case.send(fields(40)).head().status, 200);
        case.proxy.edit("fields: 50", "fields: 20");
        case.proxy.edit("drain:", "trusted_proxies: []\ndrain:");
        let changes = case.proxy.reload();
        assert_eq!(changes, "reloaded\ntrusted_proxies: changed\nclient: changed\n");
        assert_eq!(client(), b"not trusted");
        assert_eq!(case.send(fields(40)).head().status, 431);
    });
}

/// Invariant: `on_reload: adopt` reaches every running stream, silent ones too. Mechanism: a stream holds the policy that it began
/// with, and a silent one is not looked at before its next deadline. Symptom: a shorter heartbeat that no stream sends.
#[test]
fn with_adopt_running_streams_get_the_new_heartbeat_and_timeouts() {
    let setup = Setup::new(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    setup.route("heartbeat: {interval: 0}, on_reload: keep").check(|case| {
        let streams: Vec<_> = (0..4).map(|_| case.stream("/events")).collect();
        streams.iter().for_each(|stream| drop(stream.until_has("data: a\n\n")));
        case.proxy.edit("interval: 0}, on_reload: keep", "interval: 20ms}, on_reload: adopt");
        let changes = case.proxy.reload();
        assert!(changes.ends_with("routes: changed /\n4 running streams follow the new rules\n"), "{changes}");
        streams.iter().for_each(|stream| drop(stream.until_has("data: a\n\n:\n\n:\n\n")));
        // Silent for longer than this already.
        case.proxy.edit("on_reload: adopt", "on_reload: adopt, timeouts: {idle: 30ms}");
        assert!(case.proxy.hang_up());
        for stream in streams {
            stream.broken();
            case.logs_end("idle_timeout");
        }
    });
}
