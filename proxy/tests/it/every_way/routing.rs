//! Which route serves a request, and what is refused: decided once, for every request path.

use crate::support::{Request, Setup, UNTIL_CLOSE};

const ROUTES: &str = "[\
    {name: always, upstream: app, match: {path_prefix: /always}, stream: always}, \
    {name: accept, upstream: app, match: {path_prefix: /accept}}, \
    {name: never, upstream: app, match: {path_prefix: /never}, stream: never}]";

#[test]
fn a_request_gets_the_same_decision_on_every_path() {
    let setup = Setup::new(|mut connection| {
        connection.read_body();
        connection.send(format!("{UNTIL_CLOSE}data: a\n\n"));
    });
    setup.routes(ROUTES).check(|case| {
        // The streams that each route has carried, and the requests that were refused.
        let counts = || {
            let opened = |route| format!("sse_proxy_streams_opened_total{{route=\"{route}\"}}");
            let refused = |reason| format!("sse_proxy_refused_total{{reason=\"{reason}\"}}");
            let names = [opened("always"), opened("accept"), opened("never"), refused("no_route"), refused("loop")];
            names.map(|name| case.proxy.metric(&name).unwrap_or_default())
        };
        case.stream("/never").whole();
        let forwarded = case.backend.request();
        let mut fields = forwarded.lines().filter_map(|line| line.split_once(": "));
        let via = fields.find(|(name, _)| name.eq_ignore_ascii_case("via")).expect("Via").1.to_owned();
        let served = [
            (Request::get("/always"), [1.0, 0.0, 0.0, 0.0, 0.0]),
            (Request::post("/always/a", "b"), [2.0, 0.0, 0.0, 0.0, 0.0]),
            (Request::stream("/accept"), [2.0, 1.0, 0.0, 0.0, 0.0]),
            (Request::get("/accept"), [2.0, 1.0, 0.0, 0.0, 0.0]),
            (Request::stream("/never"), [2.0, 1.0, 0.0, 0.0, 0.0]),
        ];
        for (request, expected) in served {
            let exchange = case.send(request.clone());
            assert_eq!(exchange.head().status, 200, "{request:?}");
            assert_eq!(exchange.whole(), b"data: a\n\n", "{request:?}");
            assert_eq!(counts(), expected, "{request:?}");
        }
        let refused = [
            (Request::stream("/"), 404, "destination_not_found", [2.0, 1.0, 0.0, 1.0, 0.0]),
            (Request::post("/Always", "b"), 404, "destination_not_found", [2.0, 1.0, 0.0, 2.0, 0.0]),
            (Request::get("/always").field("via", &via), 508, "proxy_loop_detected", [2.0, 1.0, 0.0, 2.0, 1.0]),
            (Request::get("/").field("via", &via), 508, "proxy_loop_detected", [2.0, 1.0, 0.0, 2.0, 2.0]),
        ];
        for (request, status, error, expected) in refused {
            let exchange = case.send(request.clone());
            let head = exchange.head();
            let error = format!("sse-proxy; error={error}");
            assert_eq!((head.status, head.field("proxy-status")), (status, Some(error)), "{request:?}");
            assert!(exchange.whole().starts_with(status.to_string().as_bytes()), "{request:?}");
            assert_eq!(counts(), expected, "{request:?}");
        }
    });
}
