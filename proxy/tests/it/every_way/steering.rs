//! What the backend and the operator can do to a running stream.

use serde_json::{Value, json};

use crate::support::{CHUNKED, Exchange, Request, Setup, chunk, eventually};

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
        assert_eq!(line["labels"], json!({"user": "42", "org": "7", "a": "b"}));

        for _ in 0..2 {
            let stream = case.stream("/malformed");
            hidden(&stream);
            assert_eq!(stream.whole(), b"data: a\n\n");
            assert_eq!(case.logs_end("upstream_end")["labels"], json!({"a": "1"}));
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

/// Invariant: an operator finds each running stream and can end it alone. Mechanism: streams were known by numbers only. Symptom: a
/// user who logs out keeps a stream, and only a restart ends it.
#[test]
fn running_streams_are_listed_and_ended_by_label() {
    let setup = Setup::new(|mut connection| {
        let user = connection.path().split_once("user=").map_or("0", |(_, user)| &user[..1]).to_owned();
        connection.send(head_with(&format!("Sse-Proxy-Label: user={user}, kind=test\r\n")));
        connection.send(chunk(b"data: a\n\n"));
        if user == "3" {
            connection.send(chunk(b"data: half"));
            connection.wait_for_test();
            connection.send(chunk(b" whole\n\ndata: never sent\n\n"));
        }
        connection.hang();
    });
    setup.route("heartbeat: {interval: 0}").check(|case| {
        let streams = [1, 1, 2, 3].map(|user| (user, case.stream(&format!("/events?token=secret&user={user}"))));
        streams.iter().for_each(|(user, stream)| drop(stream.until_has(if *user == 3 { "half" } else { "data: a" })));
        let list = |query: &str| -> Vec<Value> {
            let (status, list) = case.proxy.admin_request(&format!("GET /streams?{query}"), "");
            assert_eq!((status, &list["complete"]), (200, &json!(true)), "{query}: {list}");
            assert_eq!(list["total"], list["shown"], "{query}: {list}");
            list["streams"].as_array().unwrap().clone()
        };
        // The client may have its first event an instant before the stream is in its place.
        let all = eventually("four streams", || Some(list("")).filter(|all| all.len() == 4));
        let row = list("label=user=2").pop().unwrap();
        assert_eq!((&row["route"], &row["method"]), (&json!("/"), &json!("GET")), "{row}");
        assert_eq!(row["path"], "/events?token=***&user=2", "{row}");
        assert_eq!(row["labels"], json!({"user": "2", "kind": "test"}), "{row}");
        assert_eq!((&row["events"], &row["bytes"], &row["pending_bytes"]), (&json!(1), &json!(9), &json!(0)), "{row}");
        assert_eq!(row["upstream"], case.backend.address.to_string(), "{row}");
        assert!(row["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{row}");
        assert!(row["age_ms"].as_u64() >= row["silence_ms"].as_u64() && row["silence_ms"].is_u64(), "{row}");
        let (_, one) = case.proxy.admin_request("GET /streams?limit=1&label=kind=test&route=/&client=127.0.0.0/8", "");
        assert_eq!((&one["total"], &one["shown"]), (&json!(4), &json!(1)), "{one}");
        assert!(list("label=user=9").is_empty() && list("min_age=1h").is_empty() && list("route=/x").is_empty());

        let delete = |query: &str| case.proxy.admin_request(&format!("DELETE /streams?{query}"), "");
        assert_eq!(delete("").0, 400);
        assert_eq!(delete("lable=user%3D1").0, 400);
        assert_eq!(delete("label=user=1"), (200, json!({"ended": 2, "complete": true})));
        for (_, stream) in streams.iter().filter(|(user, _)| *user == 1) {
            assert_eq!(stream.whole(), b"data: a\n\n");
            let line = case.logs_end("admin");
            assert_eq!((&line["clean"], &line["labels"]["user"]), (&json!(true), &json!("1")), "{line}");
            assert_eq!(line["path"], "/events?token=***&user=1");
        }
        // Within an event: it is finished.
        assert_eq!(delete("label=user=3").1["ended"], 1);
        case.backend.proceed(1);
        let (_, half) = &streams[3];
        assert_eq!(half.whole(), b"data: a\n\ndata: half whole\n\n");
        case.logs_end("admin");
        let left = list("");
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(all.iter().any(|row| row["id"] == left[0]["id"]), "ids stay: {left:?}");
        let id = left[0]["id"].as_str().unwrap();
        assert_eq!(delete(&format!("id={id}")).1["ended"], 1);
        assert_eq!(streams[2].1.whole(), b"data: a\n\n");
        case.logs_end("admin");
        assert_eq!(case.metric("sse_proxy_streams_ended_total", "reason=\"admin\""), Some(4.0));
    });
}
