//! Which route takes a request: by host, path, method and fields, first match first, on every request path.

use crate::support::{Request, Setup, UNTIL_CLOSE};

/// Each route says its name in its responses.
fn routes() -> String {
    let routes = [
        ("exact", "{path: /v1/chat}"),
        ("segment", "{path_segment_prefix: /v1/chat}"),
        ("method", "{path_prefix: /v1, method: [POST, PUT]}"),
        ("host", "{host: [api.example, '*.wild.example', '127.0.0.1'], path_prefix: /v1}"),
        ("field", "{header: [{name: X-Tenant, value: blue}, {name: X-Debug, present: false}]}"),
        ("token", "{header: {name: Authorization, prefix: 'Bearer '}}"),
        ("rest", "{path_prefix: /rest}"),
    ];
    let route = |(name, matches): &(&str, &str)| {
        format!(
            "{{name: {name}, upstream: app, match: {matches}, headers: {{response: {{set: {{X-Route: {name}}}}}}}}}"
        )
    };
    format!("[{}]", routes.iter().map(route).collect::<Vec<_>>().join(", "))
}

#[test]
fn the_first_route_of_which_every_condition_holds_takes_a_request() {
    let setup = Setup::new(|mut connection| {
        connection.read_body();
        connection.send(format!("{UNTIL_CLOSE}data: a\n\n"));
    });
    setup.routes(&routes()).check(|case| {
        // Streams and pages.
        for (target, make) in [
            ("as a stream", Request::stream as fn(&str) -> Request),
            ("as a page", Request::get as fn(&str) -> Request),
        ] {
            let cases = [
                (make("/v1/chat"), Some("exact")),
                (make("/v1/chat?a=/b"), Some("exact")),
                (make("/v1/chat/"), Some("segment")),
                (make("/v1/chat/7?a"), Some("segment")),
                (make("/v1/chats"), None),
                (make("/v1/Chat"), None),
                (make("/v1/chats").method("POST"), Some("method")),
                (make("/v1/chats").method("PATCH"), None),
                (make("/v1/chats").host("api.example"), Some("host")),
                (make("/v1/chats").host("API.Example.:8443"), Some("host")),
                (make("/v1/chats").host("a.b.wild.example"), Some("host")),
                (make("/v1/chats").host("wild.example"), None),
                (make("/v1/chats").host("127.0.0.1:80"), Some("host")),
                (make("/v2").host("api.example"), None),
                (make("/v2").field("x-tenant", "blue"), Some("field")),
                (make("/v2").field("x-tenant", "Blue"), None),
                (make("/v2").field("x-tenant", "red").field("x-tenant", "blue"), Some("field")),
                (make("/v2").field("x-tenant", "blue").field("x-debug", "1"), None),
                (make("/v2").field("authorization", "Bearer abc"), Some("token")),
                (make("/v2").field("authorization", "Basic abc"), None),
                (make("/rest/x").field("x-debug", "1"), Some("rest")),
            ];
            for (request, wanted) in cases {
                let exchange = case.send(request.clone());
                let head = exchange.head();
                assert_eq!(head.field("x-route").as_deref(), wanted, "{target}: {request:?}");
                assert_eq!(head.status, if wanted.is_some() { 200 } else { 404 }, "{target}: {request:?}");
                exchange.whole();
            }
        }
        let upload = case.send(Request::post("/v1/upload", vec![b'x'; 100_000]));
        assert_eq!(upload.head().field("x-route").as_deref(), Some("method"));
        let head = case.send(Request::get("/v1/chat").method("HEAD")).head();
        assert_eq!(head.field("x-route").as_deref(), Some("exact"));
    });
}
