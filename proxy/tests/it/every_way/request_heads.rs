//! The limits on request heads, each with its status, on every way.

use crate::support::{Combination, Request, Setup, UNTIL_CLOSE};

#[test]
fn each_limit_on_a_request_head_is_answered_with_its_status() {
    let setup = Setup::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let limits = "client: {limits: {target: 1KiB, header: 2KiB, fields: 20}}\ndrain: {timeout: 2m}\n";
    setup.rest(limits).check(|case| {
        let target = |length: usize| Request::stream(&format!("/{}", "a".repeat(length - 1)));
        let fields =
            |count| (0..count).fold(Request::stream("/"), |request, at| request.field(&format!("x-{at}"), "1"));
        let head = |length| Request::stream("/").field("x", &"a".repeat(length));
        for (request, status, reason) in [
            (target(1024), 200, ""),
            (target(1025), 414, "target_too_long"),
            (fields(15), 200, ""),
            (fields(21), 431, "too_many_fields"),
            (head(1700), 200, ""),
            (head(2100), 431, "head_too_large"),
        ] {
            let what = format!("{} fields, {} bytes of target, {reason}", request.fields.len(), request.path.len());
            let metric = format!("sse_proxy_refused_total{{reason=\"{reason}\"}}");
            let before = case.proxy.metric(&metric).unwrap_or_default();
            let exchange = case.send(request);
            assert_eq!(exchange.head().status, status, "{what}");
            // The library answers a head that is too large over HTTP/2, and nobody counts it.
            let is_counted = status != 200 && !(reason == "head_too_large" && case.combination.protocol.is_http_2());
            let counted = case.proxy.metric(&metric).unwrap_or_default() - before;
            assert_eq!(counted, f64::from(u8::from(is_counted)), "{what}");
        }
    });
}

/// The time for a head to come: over HTTP/2 a head that stops in the middle closes the connection, which has a test of its
/// own.
#[test]
fn a_head_that_does_not_come_in_time_is_answered_with_408() {
    let setup = Setup::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let only = |way: &Combination| !way.protocol.is_http_2() && !way.in_pieces;
    setup.rest("client: {timeouts: {header: 500ms}}\ndrain: {timeout: 2m}\n").only(only).check(|case| {
        let mut client = match case.combination.protocol.is_tls() {
            true => case.proxy.connect_tls(),
            false => case.proxy.connect(),
        };
        client.send("GET / HTTP/1.1\r\nHost: test\r\n");
        assert_eq!(client.read_head().status, 408);
        let counted = case.proxy.metric("sse_proxy_refused_total{reason=\"head_timeout\"}");
        assert_eq!(counted, Some(1.0));
    });
}
