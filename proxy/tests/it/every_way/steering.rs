//! What the backend and the operator can do to a running stream.

use crate::support::{CHUNKED, Exchange, Request, Setup, chunk};

/// A stream's head with these fields.
fn head_with(fields: &str) -> String {
    CHUNKED.replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1)
}

/// Invariant: only the backend steers its stream, and no client sees how. Mechanism: fields of an unknown name pass in both directions.
/// Symptom: a client sets its own lifetime, and reads the labels that the backend has given it.
#[test]
fn a_backend_sets_lifetime_heartbeat_and_labels_of_its_stream() {
    let setup = Setup::new(|mut connection| {
        assert!(!connection.head.to_lowercase().contains("sse-proxy-"), "{}", connection.head);
        if connection.path() == "/page" {
            connection.send("HTTP/1.1 200 OK\r\nSse-Proxy-Label: user=42\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        let fields = match connection.path() {
            "/steered" => {
                "Sse-Proxy-Lifetime: 3\r\nSse-Proxy-Heartbeat: 1\r\nSse-Proxy-Label: user=42, org=7\r\nSse-Proxy-Label: a=b\r\n"
            }
            "/malformed" => "Sse-Proxy-Lifetime: soon\r\nSse-Proxy-Label: user\r\nSse-Proxy-Label: a=1\r\n",
            _ => "",
        };
        connection.send(head_with(fields));
        connection.send(chunk(b"data: a\n\n"));
        if connection.path() == "/malformed" {
            return connection.send("0\r\n\r\n");
        }
        connection.hang();
    });
    setup.route("heartbeat: {interval: 0}, timeouts: {lifetime: 1h}").check(|case| {
        // Bytes that the client sends must not steer it.
        let request = Request::stream("/steered").field("sse-proxy-lifetime", "1").field("sse-proxy-label", "x=y");
        let stream = case.send(request);
        let hidden = |exchange: &Exchange| {
            let answer = exchange.head();
            assert!(!answer.fields.iter().any(|(name, _)| name.starts_with("sse-proxy-")), "{answer:?}");
        };
        hidden(&stream);
        let text = String::from_utf8(stream.whole()).unwrap();
        assert!(text.starts_with("data: a\n\n:\n\n"), "a heartbeat where the route sends none: {text:?}");
        let line = case.logs_end("lifetime");
        let lived = line["duration_ms"].as_u64().unwrap();
        assert!((3000..20_000).contains(&lived), "{line}");
        assert_eq!(line["labels"], serde_json::json!({"user": "42", "org": "7", "a": "b"}));

        for _ in 0..2 {
            let stream = case.stream("/malformed");
            hidden(&stream);
            assert_eq!(stream.whole(), b"data: a\n\n");
            assert_eq!(case.logs_end("upstream_end")["labels"], serde_json::json!({"a": "1"}));
        }
        let ignored =
            "response field ignored: side=upstream route=/: sse-proxy-lifetime is \"soon\": write whole seconds";
        assert_eq!(case.proxy.stderr().matches(ignored).count(), 1, "{}", case.proxy.stderr());

        let plain = case.stream("/plain");
        plain.until_has("data: a\n\n");
        drop(plain);
        assert!(case.logs_end("client_gone").get("labels").is_none());

        let page = case.send(Request::get("/page").field("sse-proxy-label", "x=y"));
        hidden(&page);
        assert_eq!(page.head().field("x-own").as_deref(), Some("1"));
        assert_eq!(page.whole(), b"ok");
    });
}
