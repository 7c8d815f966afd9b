//! The admin listener and its metrics.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::{Backend, Proxy, UNTIL_CLOSE, eventually};

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

/// Invariant: a page that an operator's browser shows cannot end streams. Mechanism: browsers send requests to addresses on this host
/// for any page, and under any name. Symptom: whoever makes the operator open a page ends all streams.
#[test]
fn requests_of_other_sites_and_under_other_names_are_refused() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into()]);
    let proxy = Proxy::start(backend.address, "");
    for (fields, wanted) in [
        ("", 200),
        ("Origin: https://example.com\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\n", 200),
        (&format!("Origin: http://{}\r\n", proxy.admin), 200),
        ("Authorization: Bearer 0123456789abcdef\r\n", 200),
    ] {
        for request in ["GET /streams", "DELETE /streams?route=/"] {
            assert_eq!(proxy.admin_request(request, fields).0, wanted, "{request} {fields}");
        }
    }
    // `admin_page` sends a host that is nobody's.
    assert_eq!(proxy.admin_page("/streams").0, 403);
    assert_eq!(proxy.admin_page("/metrics").0, 200);
    assert_eq!(proxy.admin_request("POST /streams", "Content-Length: 0\r\n").0, 405);
    assert_eq!(proxy.admin_request("GET /streams?user=42", "").0, 400);
}

#[test]
fn a_token_file_asks_for_a_token_and_may_change() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into()]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first-0123456789\n").unwrap();
    let proxy = Proxy::start_with_admin(
        &format!("{{address: 127.0.0.1:0, token_file: '{}'}}", file.display()),
        &format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address),
    );
    let get = |token: &str| proxy.admin_request("GET /streams", &format!("Authorization: Bearer {token}\r\n")).0;
    assert_eq!(proxy.admin_request("GET /streams", "").0, 401);
    assert_eq!((get("first-0123456789"), get("other-0123456789")), (200, 401));
    std::fs::write(&file, "other-0123456789\n").unwrap();
    assert_eq!((get("first-0123456789"), get("other-0123456789")), (401, 200));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(get("other-0123456789"), 500);
    assert_eq!((proxy.admin_page("/healthz").0, proxy.admin_page("/metrics").0), (200, 200));
}

#[test]
fn the_admin_listener_may_be_a_unix_socket() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into()]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    for _ in 0..2 {
        // The second process finds the socket of the first, which was killed.
        let _proxy = Proxy::start_with_admin(
            &format!("{{address: 'unix:{}'}}", path.display()),
            &format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address),
        );
        let mut client = eventually("it listens", || UnixStream::connect(&path).ok());
        let mut read = String::new();
        // Two requests on one connection.
        client.write_all(b"GET /streams HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        while !read.ends_with("}\n") {
            let mut buffer = [0; 1024];
            let count = client.read(&mut buffer).unwrap();
            assert!(count > 0, "closed after {read:?}");
            read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        assert!(read.contains("\"total\":0"), "{read}");
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("ok\n"), "{rest}");
    }
}
