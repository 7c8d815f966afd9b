//! What a client gets whose upstream fails before its response head: an `EventSource` may be asked to come back.

use crate::support::{Certificate, Client, Proxy, Request, Setup, free_address};

/// Fails as the path says.
const ROUTES: &str = "[\
    {name: soft, upstream: app, match: {path_prefix: /soft}, on_unavailable: retry_later, retry_after: 100ms-200ms, \
     timeouts: {first_byte: 500ms}}, \
    {name: hard, upstream: app, match: {path_prefix: /hard}}]";

/// What every `EventSource` sends.
fn event_source(path: &str) -> Request {
    Request::stream(path).field("cache-control", "no-cache")
}

/// The delay in a body that is one `retry:` field.
fn delay(body: &[u8]) -> Option<u32> {
    std::str::from_utf8(body).ok()?.strip_prefix("retry: ")?.strip_suffix("\n\n")?.parse().ok()
}

#[test]
fn an_event_source_is_asked_to_come_back_and_others_get_an_error() {
    let setup = Setup::new(|mut connection| match connection.path().rsplit('/').next() {
        Some("closed") => {}
        Some("garbled") => connection.send("nonsense\r\n\r\n"),
        Some("cut") => connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-str"),
        Some("ambiguous") => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        Some("busy") => connection.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"),
        _ => connection.hang(),
    });
    setup.routes(ROUTES).check(|case| {
        let failures = || {
            let names = ["upstream_broken", "upstream_invalid", "first_byte_timeout"];
            let metric = |reason| format!("sse_proxy_upstream_failures_total{{route=\"soft\",reason=\"{reason}\"}}");
            names.iter().filter_map(|reason| case.proxy.metric(&metric(reason))).sum::<f64>()
        };
        for (at, (kind, error)) in [
            ("closed", "connection_terminated"),
            ("garbled", "connection_terminated"),
            ("cut", "connection_terminated"),
            ("ambiguous", "http_protocol_error"),
            ("silent", "http_response_timeout"),
        ]
        .into_iter()
        .enumerate()
        {
            let error = format!("sse-proxy; error={error}");
            let exchange = case.send(event_source(&format!("/soft/{kind}")).field("origin", "https://a.example"));
            let (head, body) = (exchange.head(), exchange.whole());
            assert_eq!(head.status, 200, "{kind}");
            let delay = delay(&body).unwrap_or_else(|| panic!("{kind}: {:?}", String::from_utf8_lossy(&body)));
            assert!((100..=200).contains(&delay), "{kind}: {delay}");
            for (name, value) in [
                ("content-type", "text/event-stream"),
                ("cache-control", "no-store"),
                ("proxy-status", &error),
                ("access-control-allow-origin", "https://a.example"),
                ("access-control-allow-credentials", "true"),
                ("vary", "Origin"),
            ] {
                assert_eq!(head.field(name).as_deref(), Some(value), "{kind}: {name}");
            }
            assert_eq!(failures(), (at + 1) as f64, "{kind}: counted though it is answered with 200");
        }
        let path = "/soft/closed";
        let others = [
            ("fetch", Request::stream(path)),
            ("a reload", Request::get(path).field("cache-control", "no-cache")),
            ("POST", Request::post(path, "x").field("accept", "text/event-stream").field("cache-control", "no-cache")),
            ("an EventSource on a route without the key", event_source("/hard/closed")),
        ];
        for (what, request) in others {
            let exchange = case.send(request);
            let error = Some("sse-proxy; error=connection_terminated".to_owned());
            assert_eq!((exchange.head().status, exchange.head().field("proxy-status")), (502, error), "{what}");
            exchange.whole();
        }
        let busy = case.send(event_source("/soft/busy"));
        assert_eq!((busy.head().status, busy.whole().as_slice()), (503, &b"busy"[..]), "the backend's own answer");
        assert_eq!(case.proxy.metric("sse_proxy_streams_active{route=\"soft\"}"), Some(0.0));
    });
}

#[test]
fn an_event_source_is_asked_to_come_back_when_no_server_can_be_connected_to() {
    let servers = [(); 2].map(|()| free_address("127.83.69.4"));
    let certificate = Certificate::new();
    let tls = format!("{{address: 127.0.0.1:0, tls: {}}}", certificate.yaml());
    for (listener, connect) in [
        ("{address: 127.0.0.1:0}", Proxy::connect as fn(&Proxy) -> Client),
        (&tls, Proxy::connect_tls as fn(&Proxy) -> Client),
    ] {
        for mode in ["accept", "never"] {
            let proxy = Proxy::start_listening(
                listener,
                &format!(
                    "upstreams: {{app: {{servers: ['{}', '{}']}}}}\nroutes: [{{stream: {mode}, on_unavailable: retry_later}}]\n",
                    servers[0], servers[1]
                ),
            );
            let mut client = connect(&proxy);
            client.send(
                "GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\r\n",
            );
            let head = client.read_head();
            assert_eq!(head.status, 200, "{mode}, {listener}");
            assert_eq!(head.header("proxy-status").as_deref(), Some("sse-proxy; error=connection_refused"));
            let body = client.read_to_end().expect("a clean end");
            let delay = delay(&body).expect("one field");
            assert!((5000..=30_000).contains(&delay), "{delay}");
            assert_eq!(
                proxy.metric("sse_proxy_upstream_failures_total{route=\"/\",reason=\"connect_failed\"}"),
                Some(1.0)
            );
        }
    }
}
