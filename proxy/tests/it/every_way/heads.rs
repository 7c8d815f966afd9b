//! What a route changes in heads: fields of requests and responses, and the prefix of the path, on every request path.

use std::collections::HashSet;

use crate::support::{Backend, Certificate, Client, Connection, Proxy, Request, Setup};

const CHANGES: &str = "headers: {\
    request: {set: {X-Set: new, Host: internal.example, X-Forwarded-Proto: gopher, X-Client: '<$client_address>', \
                    X-Asked: '${scheme}://$host$request_uri', X-Request-ID: $request_id}, add: {X-Add: [one, 2], x-own: kept}, \
              remove: [X-Gone, Cookie]}, \
    response: {set: {Server: edge, Cache-Control: no-store}, add: {Link: [a, b]}, remove: [X-Powered-By, Via]}}";

/// Answers with what came, a line of data for each line of the head: as a stream or a page, or as an error.
/// `early` before it has read the request's body.
fn echo(mut connection: Connection) {
    let is_early = connection.path().contains("early");
    if !is_early {
        connection.read_body();
    }
    let lines: Vec<_> = connection.head.lines().filter(|line| !line.is_empty()).collect();
    let body = format!("data: {}\n\n", lines.join("\ndata: "));
    let status = if connection.path().contains("broken") { "503 Broken" } else { "200 OK" };
    let fields =
        "Content-Type: text/event-stream\r\nServer: backend\r\nX-Powered-By: x\r\nx-powered-by: y\r\nX-Kept: 1";
    connection.send(format!("HTTP/1.1 {status}\r\n{fields}\r\nLink: 0\r\n\r\n{body}"));
    if is_early {
        connection.read_body();
    }
}

/// The lines that [`echo`] answers with.
fn echoed(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8(body.to_vec()).expect("text");
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The values of a field in such lines.
fn values<'l>(lines: &'l [String], name: &str) -> Vec<&'l str> {
    let fields = lines.iter().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[test]
fn fields_are_changed_in_both_directions_of_streams_pages_uploads_and_errors() {
    let routes = format!(
        "[{{upstream: app, match: {{path_prefix: /changed}}, {CHANGES}}}, \
         {{upstream: app, match: {{path_prefix: /as-it-is}}}}]"
    );
    Setup::new(echo).routes(&routes).check(|case| {
        let (stream, get) = (Request::stream, Request::get);
        let requests = [
            (stream("/changed"), 200),
            (get("/changed"), 200),
            (Request::post("/changed", vec![b'x'; 100_000]), 200),
            (Request::post("/changed", "x").field("accept", "text/event-stream"), 200),
            (Request::post("/changed/early", vec![b'x'; 3 << 20]).field("accept", "text/event-stream"), 200),
            (get("/changed/broken"), 503),
            (stream("/changed/broken"), 503),
        ];
        let mut ids = HashSet::new();
        for (request, status) in requests {
            let fields = [
                ("x-request-id", "client"),
                ("x-set", "old"),
                ("x-set", "older"),
                ("x-own", "1"),
                ("x-gone", "1"),
                ("cookie", "a=b"),
            ];
            let request = fields.iter().fold(request, |request, (name, value)| request.field(name, value));
            let exchange = case.send(request.clone());
            let (head, lines) = (exchange.head(), echoed(&exchange.whole()));
            let what = format!("{} {}: {lines:?}", request.method, request.path);
            assert_eq!(head.status, status, "{what}");
            assert_eq!(values(&lines, "x-set"), ["new"], "{what}");
            assert_eq!(values(&lines, "host"), ["internal.example"], "{what}");
            assert_eq!(values(&lines, "x-forwarded-proto"), ["gopher"], "{what}");
            assert_eq!(values(&lines, "x-forwarded-host"), ["test"], "the client's: {what}");
            assert_eq!(values(&lines, "x-add"), ["one", "2"], "{what}");
            assert_eq!(values(&lines, "x-client"), ["<127.0.0.1>"], "{what}");
            let scheme = if case.combination.protocol.is_tls() { "https" } else { "http" };
            assert_eq!(values(&lines, "x-asked"), [format!("{scheme}://test{}", request.path)], "{what}");
            let id = values(&lines, "x-request-id")[0];
            assert!(id.len() == 32 && ids.insert(id.to_owned()), "an id of its own: {what}");
            assert_eq!(values(&lines, "x-own").len(), 2, "{what}");
            assert!(values(&lines, "x-gone").is_empty() && values(&lines, "cookie").is_empty(), "{what}");
            let field = |name| head.field(name);
            assert_eq!(field("server").as_deref(), Some("edge"), "{what}");
            assert_eq!(field("cache-control").as_deref(), Some("no-store"), "{what}");
            assert_eq!(field("link").as_deref(), Some("0, a, b"), "{what}");
            assert_eq!(field("x-kept").as_deref(), Some("1"), "{what}");
            assert_eq!([field("x-powered-by"), field("via")], [None, None], "{what}");
        }
        let unchanged = case.send(stream("/as-it-is"));
        assert_eq!(unchanged.head().field("server").as_deref(), Some("backend"), "of the other route");
        let refused = case.send(stream("/nowhere"));
        assert_eq!(refused.head().field("link"), None, "the proxy's own responses are not changed");
    });
}

#[test]
fn a_prefix_is_removed_and_added_and_reported_to_the_server() {
    let routes = "[\
        {upstream: app, match: {path_segment_prefix: /api}, strip_prefix: true}, \
        {upstream: app, match: {path_prefix: /old/}, strip_prefix: true, add_prefix: /v2/}, \
        {upstream: app, match: {path: /exact}, strip_prefix: true}, \
        {upstream: app, match: {path_prefix: /below}, add_prefix: /tenant}]";
    Setup::new(echo).routes(routes).check(|case| {
        let cases = [
            ("/api", "/", Some("/api")),
            ("/api?a=/api", "/?a=/api", Some("/api")),
            ("/api/users/7?a=b", "/users/7?a=b", Some("/api")),
            ("/api//evil.test/x", "/evil.test/x", Some("/api")),
            ("/api/%2F%C3%A4", "/%2F%C3%A4", Some("/api")),
            ("/old/users", "/v2/users", Some("/old")),
            ("/old/", "/v2/", Some("/old")),
            ("/exact?a", "/?a", Some("/exact")),
            ("/below/x", "/tenant/below/x", None),
        ];
        for (path, at_backend, prefix) in cases {
            for (kind, request) in [
                ("stream", Request::stream(path)),
                ("page", Request::get(path)),
                ("upload", Request::post(path, vec![b'x'; 50_000])),
            ] {
                let exchange = case.send(request);
                let lines = echoed(&exchange.whole());
                assert_eq!(lines[0].split(' ').nth(1), Some(at_backend), "{kind} {path}: {lines:?}");
                assert_eq!(values(&lines, "x-forwarded-prefix"), Vec::from_iter(prefix), "{kind} {path}");
            }
            // The log has what the client asked for, without the query.
            let (path, _) = path.split_once('?').unwrap_or((path, ""));
            let logged = case.proxy.log_line();
            assert!(logged["path"].as_str().expect("a path").starts_with(path), "{path}: {logged}");
        }
        for path in ["/below/../x", "/old/%2e%2E/x", "/below/..%5Cx"] {
            for request in [Request::stream(path), Request::get(path)] {
                let exchange = case.send(request);
                assert_eq!(exchange.head().status, 400, "{path}");
                exchange.whole();
            }
        }
        assert_eq!(case.proxy.metric("sse_proxy_refused_total{reason=\"parent_segment\"}"), Some(6.0));
        assert_eq!(case.send(Request::get("/api/../x")).head().status, 200, "nothing that could be left");
    });
}

#[test]
fn an_upgrade_is_changed_as_any_other_request() {
    let backend = Backend::start(|mut connection| {
        let lines: Vec<String> = connection.head.lines().map(str::to_owned).collect();
        assert_eq!(connection.path(), "/v2/socket?a", "{lines:?}");
        assert_eq!(values(&lines, "x-set"), ["new"]);
        assert!(
            values(&lines, "x-asked")[0].ends_with("://A.example/api/socket?a"),
            "as the client sent it: {lines:?}"
        );
        assert_eq!(values(&lines, "host"), ["internal.example"]);
        assert_eq!(values(&lines, "x-forwarded-prefix"), ["/api"]);
        assert!(values(&lines, "cookie").is_empty(), "{lines:?}");
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        connection.send("Server: backend\r\nX-Powered-By: x\r\n\r\nhello");
        connection.hang();
    });
    let config = format!(
        "upstreams: {{app: {{servers: ['{}']}}}}\nroutes: [{{match: {{host: a.example, path_segment_prefix: /api}}, \
         strip_prefix: true, add_prefix: /v2, {CHANGES}}}]\n",
        backend.address
    );
    let certificate = Certificate::new();
    let tls = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
    for (listener, connect) in [
        ("{address: 127.0.0.1:0}", Proxy::connect as fn(&Proxy) -> Client),
        (&tls, Proxy::connect_tls as fn(&Proxy) -> Client),
    ] {
        let proxy = Proxy::start_listening(listener, &config);
        let mut client = connect(&proxy);
        client.send(
            "GET /api/socket?a HTTP/1.1\r\nHost: A.example:80\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nCookie: a=b\r\n\
             X-Set: old\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let head = client.read_head();
        assert_eq!((head.status, head.header("server").as_deref()), (101, Some("edge")), "{listener}");
        assert_eq!([head.header("x-powered-by"), head.header("via")], [None, None], "{listener}");
        client.read_until(|bytes| bytes == b"hello");
    }
}
