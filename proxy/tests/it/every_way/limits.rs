//! Limits on streams: who is refused and how, and that no running stream pays for it.

use crate::support::{CHUNKED, Connection, Request, Setup, chunk, eventually};

/// Sends one event, and another one once the test lets it; then the end.
fn two_events(mut connection: Connection) {
    connection.send(CHUNKED);
    connection.send(chunk(b"data: a\n\n"));
    connection.wait_for_test();
    connection.send(chunk(b"data: b\n\n"));
    connection.send("0\r\n\r\n");
}

const ROUTES: &str = "[\
    {name: a, upstream: app, match: {path_prefix: /a}, retry_after: 1500ms-2s, limits: {streams: 2}}, \
    {name: b, upstream: app, match: {path_prefix: /b}, retry_after: 1500ms-2s, limits: {streams_per_client: 2}}, \
    {name: c, upstream: app, match: {path_prefix: /c}, retry_after: 1500ms-2s, limits: {opening_rate: 2/h}}, \
    {name: d, upstream: app, match: {path_prefix: /d}, retry_after: 1500ms-2s, limits: {opening_rate_per_client: 2/h}}, \
    {name: e, upstream: app, match: {path_prefix: /e}, limits: {streams: 2, on_limit: reject}}, \
    {name: f, upstream: app, match: {path_prefix: /f}, limits: {streams: 2, on_limit: retry_later}}]";

/// As `EventSource` asks.
fn event_source(path: &str) -> Request {
    Request::stream(path).field("cache-control", "no-cache")
}

#[test]
fn a_stream_beyond_a_limit_is_refused_and_the_running_ones_go_on() {
    // The route, the limit, its status and error, and whether each client has its own.
    let cases = [
        ("a", "streams", 503, "connection_limit_reached", false),
        ("b", "streams_per_client", 429, "http_request_denied", true),
        ("c", "opening_rate", 429, "http_request_denied", false),
        ("d", "opening_rate_per_client", 429, "http_request_denied", true),
    ];
    Setup::new(two_events).routes(ROUTES).check(|case| {
        for (route, limit, status, error, per_client) in cases {
            let path = format!("/{route}");
            let held = [(); 2].map(|()| case.stream(&path));
            held.iter().for_each(|stream| drop(stream.until_has("data: a")));

            let refused = case.stream(&path);
            let head = refused.head();
            assert_eq!(head.status, status, "{limit}: {head:?}");
            assert_eq!(head.field("retry-after").as_deref(), Some("2"), "{limit}");
            assert_eq!(head.field("proxy-status"), Some(format!("sse-proxy; error={error}")), "{limit}");
            let text = String::from_utf8(refused.whole()).unwrap();
            assert!(text.starts_with(&format!("{status} ")) && text.ends_with("allows\n"), "{limit}: {text}");

            let refused = case.send(event_source(&path));
            let head = refused.head();
            assert_eq!((head.status, head.field("retry-after")), (200, None), "{limit}: {head:?}");
            assert_eq!(head.field("content-type").as_deref(), Some("text/event-stream"), "{limit}");
            let body = String::from_utf8(refused.whole()).unwrap();
            let millis = body.strip_prefix("retry: ").and_then(|body| body.strip_suffix("\n\n")?.parse::<u32>().ok());
            assert!(millis.is_some_and(|millis| (1500..=2000).contains(&millis)), "{limit}: {body:?}");

            let other = case.send(Request::stream(&path).field("x-forwarded-for", "203.0.113.9"));
            let expected = if per_client { 200 } else { status };
            assert_eq!(other.head().status, expected, "{limit}: another client");
            if per_client {
                other.until_has("data: a");
            }

            let labels = format!("{{route=\"{route}\",limit=\"{limit}\"}}");
            let counted = case.proxy.metric(&format!("sse_proxy_limited_total{labels}"));
            assert_eq!(counted, Some(if per_client { 2.0 } else { 3.0 }), "{limit}");
            let clients = case.proxy.metric(&format!("sse_proxy_limited_clients{{route=\"{route}\"}}"));
            assert_eq!(clients, Some(if per_client { 2.0 } else { 0.0 }), "{limit}");

            // Nobody was ended for them.
            case.backend.proceed(held.len() + usize::from(per_client));
            held.iter().for_each(|stream| assert_eq!(stream.whole(), b"data: a\n\ndata: b\n\n", "{limit}"));
            let mut clients: Vec<_> = (0..held.len() + usize::from(per_client))
                .map(|_| case.logs_end("upstream_end")["client"].clone())
                .collect();
            clients.retain(|client| client == "203.0.113.9");
            assert_eq!(clients.len(), usize::from(per_client), "the address that the proxy in front reports");
            if limit.starts_with("streams") {
                let again = eventually("room for another", || {
                    let again = case.stream(&path);
                    (again.head().status == 200).then_some(again)
                });
                case.backend.proceed(1);
                again.whole();
                case.logs_end("upstream_end");
            }
        }
        let log = || case.proxy.stderr();
        for (route, limit, ..) in cases {
            let line = format!("stream refused: side=internal route={route} reason={limit}: ");
            eventually("a line in the log", || log().contains(&line).then_some(()));
        }
        assert!(case.proxy.metric("sse_proxy_refused_total{reason=\"limited\"}") >= Some(10.0));
    });
}

#[test]
fn a_route_chooses_the_answer_for_every_client() {
    Setup::new(two_events).routes(ROUTES).check(|case| {
        for (path, status) in [("/e", 503), ("/f", 200)] {
            let held = [(); 2].map(|()| case.stream(path));
            held.iter().for_each(|stream| drop(stream.until_has("data: a")));
            for request in
                [Request::stream(path), event_source(path), event_source(path).field("origin", "https://x.test")]
            {
                let refused = case.send(request.clone());
                let (head, body) = (refused.head(), refused.whole());
                assert_eq!(head.status, status, "{request:?}");
                assert_eq!(body.starts_with(b"retry: "), status == 200, "{request:?}");
                let allowed = head.field("access-control-allow-origin");
                let from_elsewhere = request.fields.iter().any(|(name, _)| name == "origin");
                assert_eq!(allowed.is_some(), status == 200 && from_elsewhere, "{request:?}");
            }
            case.backend.proceed(2);
            held.iter().for_each(|stream| drop(stream.whole()));
        }
    });
}

#[test]
fn all_routes_share_the_limit_of_the_process_and_pages_have_none() {
    let setup = Setup::new(|connection| match connection.path() {
        "/a/page" => {
            let mut connection = connection;
            connection.answer("text/plain", "page");
        }
        _ => two_events(connection),
    });
    let routes =
        "[{name: a, upstream: app, match: {path_prefix: /a}}, {name: b, upstream: app, match: {path_prefix: /b}}]";
    setup.routes(routes).rest("limits: {streams: 2}\ndrain: {timeout: 2m}\n").check(|case| {
        // Asked for as streams: each gives back what it took.
        for _ in 0..4 {
            assert_eq!(case.stream("/a/page").whole(), b"page");
        }
        let held = ["/a", "/b"].map(|path| case.stream(path));
        held.iter().for_each(|stream| drop(stream.until_has("data: a")));
        for route in ["a", "b"] {
            let refused = case.stream(&format!("/{route}"));
            assert_eq!(refused.head().status, 503);
            refused.whole();
            let counted = case.proxy.metric(&format!("sse_proxy_limited_total{{route=\"{route}\",limit=\"all\"}}"));
            assert_eq!(counted, Some(1.0), "{route}");
        }
        assert_eq!(case.send(Request::get("/a/page")).whole(), b"page");
        case.backend.proceed(2);
        held.iter().for_each(|stream| drop(stream.whole()));
    });
}

#[test]
fn clients_are_told_apart_by_what_trusted_proxies_report_or_by_a_name_in_the_request() {
    let routes = "[\
        {name: address, upstream: app, match: {path_prefix: /address}, limits: {streams_per_client: 1}}, \
        {name: header, upstream: app, match: {path_prefix: /header}, limits: {streams_per_client: 1, client: {header: X-Tenant}}}, \
        {name: cookie, upstream: app, match: {path_prefix: /cookie}, limits: {streams_per_client: 1, client: {cookie: sid}}}, \
        {name: query, upstream: app, match: {path_prefix: /query}, limits: {streams_per_client: 1, client: {query: user}}}]";
    let forwarded = |address: &'static str| move |path: &str| Request::stream(path).field("x-forwarded-for", address);
    let tenant = |tenant: &'static str| move |path: &str| Request::stream(path).field("x-tenant", tenant);
    let session = |cookie: &'static str| move |path: &str| Request::stream(path).field("cookie", cookie);
    let user = |query: &'static str| move |path: &str| Request::stream(&format!("{path}{query}"));
    for is_trusted in [true, false] {
        let trusted = if is_trusted { "" } else { "trusted_proxies: []\n" };
        Setup::new(two_events).routes(routes).rest(&format!("{trusted}drain: {{timeout: 2m}}\n")).check(|case| {
            let differ = |path: &str,
                          one: &dyn Fn(&str) -> Request,
                          same: &dyn Fn(&str) -> Request,
                          other: &dyn Fn(&str) -> Request,
                          differ: bool| {
                let held = case.send(one(path));
                held.until_has("data: a");
                assert_eq!(case.send(same(path)).head().status, 429, "{path}: the same client");
                let second = case.send(other(path));
                assert_eq!(second.head().status, if differ { 200 } else { 429 }, "{path}: another client");
                case.backend.proceed(1 + usize::from(differ));
                drop((held.whole(), second.whole()));
            };
            let (one, same, other) =
                (forwarded("203.0.113.1"), forwarded("6.6.6.6, 203.0.113.1"), forwarded("203.0.113.2"));
            differ("/address", &one, &same, &other, is_trusted);
            let (one, same, other) =
                (forwarded("2001:db8::1"), forwarded("2001:db8::ffff:2"), forwarded("2001:db8:0:1::1"));
            differ("/address", &one, &same, &other, is_trusted);
            differ("/header", &tenant("a"), &tenant("a"), &tenant("b"), is_trusted);
            differ("/cookie", &session("x=1; sid=a"), &session("sid=a; y=2"), &session("sid=b"), true);
            differ("/query", &user("?user=a&x=1"), &user("?x=2&user=a"), &user("?user=b"), true);
        });
    }
}

/// Invariant: limits hold for requests after a reload, and what they count goes on. Mechanism: a reload builds each route anew, and
/// its counts with it, or leaves a route with the former limits. Symptom: a reload lets every client open its streams a second time,
/// or a limit cannot be changed without a restart.
#[test]
fn a_reload_changes_limits_and_forgets_no_stream() {
    let cases = [
        ("limits: {}", "limits: {streams: 2}\n", "streams: 2", "streams: 3", "streams: 1", "all"),
        ("limits: {streams: 2}", "", "streams: 2", "streams: 3", "streams: 1", "streams"),
        ("limits: {streams_per_client: 2}", "", "client: 2", "client: 3", "client: 1", "streams_per_client"),
        ("limits: {opening_rate: 2/h}", "", "2/h", "10000/s", "", "opening_rate"),
        ("limits: {opening_rate_per_client: 2/h}", "", "2/h", "10000/s", "", "opening_rate_per_client"),
    ];
    for (route, rest, before, more, less, limit) in cases {
        let setup = Setup::new(two_events).route(route).rest(&format!("{rest}drain: {{timeout: 2m}}\n"));
        setup.check(|case| {
            let open = || {
                let stream = case.stream("/");
                stream.until_has("data: a");
                stream
            };
            let refused = || {
                let status = case.stream("/").head().status;
                assert!([429, 503].contains(&status), "{limit}: {status}");
                case.metric("sse_proxy_limited_total", &format!("limit=\"{limit}\""))
            };
            let mut held = vec![open(), open()];
            assert_eq!(refused(), Some(1.0), "{limit}");
            // Another setting: the limit stays, with what it has counted.
            case.proxy.edit("drain: {timeout: 2m}", "drain: {timeout: 3m}\nclient: {limits: {fields: 50}}");
            assert!(case.proxy.reload().starts_with("reloaded\n"));
            assert_eq!(refused(), Some(2.0), "{limit}: after a reload of something else");
            case.proxy.edit(before, more);
            let changes = case.proxy.reload();
            let changed = if limit == "all" { "limits: changed\n" } else { "routes: changed /\n" };
            assert_eq!(changes, format!("reloaded\n{changed}"), "{limit}");
            held.push(open());
            if !less.is_empty() {
                case.proxy.edit(more, less);
                case.proxy.reload();
                assert_eq!(refused(), Some(3.0), "{limit}: lowered");
            }
            case.backend.proceed(held.len());
            held.iter().for_each(|stream| assert_eq!(stream.whole(), b"data: a\n\ndata: b\n\n", "{limit}"));
        });
    }
}
