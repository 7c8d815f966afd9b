//! The admin listener and its metrics.

use crate::support::{Backend, Proxy, UNTIL_CLOSE};

#[test]
fn the_admin_pages_respond() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into()]);
    let proxy = Proxy::start(backend.address, "");
    assert_eq!(proxy.admin_page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(proxy.admin_page("/nothing").0, 404);
    let (status, metrics) = proxy.admin_page("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.ends_with("# EOF\n"), "a complete exposition");
    for name in [
        "sse_proxy_build_info{version=",
        "sse_proxy_streams_active{route=\"/\"} 0",
        "sse_proxy_streams_ended_total{route=\"/\",reason=\"write_timeout\"} 0",
        "sse_proxy_upstream_failures_total{route=\"/\",reason=\"connect_timeout\"} 0",
        "sse_proxy_process_resident_memory_bytes",
        "sse_proxy_process_open_descriptors",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[test]
fn first_bytes_and_durations_are_measured() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let proxy = Proxy::start(backend.address, "");
    proxy.stream("/events").read_to_end().unwrap();
    proxy.log_line();
    assert_eq!(proxy.metric("sse_proxy_first_byte_seconds_count{route=\"/\"}"), Some(1.0));
    assert_eq!(proxy.metric("sse_proxy_stream_duration_seconds_count{route=\"/\"}"), Some(1.0));
    assert_eq!(proxy.metric("sse_proxy_body_bytes_total{route=\"/\"}"), Some(9.0));
}
