//! What opening a stream costs outside of sockets: from the client's bytes to those for the upstream, and from the
//! upstream's response head to that for the client. `cargo bench -p sse-proxy --bench opening`
#![allow(missing_docs, reason = "what the benchmark harness generates has none")]

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderValue;
use pingora::http::{IntoCaseHeaderName, Method, RequestHeader, ResponseHeader, Version};
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use sse_proxy::headers::{self, TrustedProxies};
use sse_proxy::wire::request::{HeadLimits, MAX_FIELDS, RequestHead};

const SMALL: &[u8] = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: text/event-stream\r\n\r\n";

/// What Chromium sends.
const BROWSER: &[u8] = b"GET /events?channel=prices HTTP/1.1\r\nHost: app.example.org\r\nConnection: keep-alive\r\n\
    sec-ch-ua-platform: \"Linux\"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/142.0.0.0 Safari/537.36\r\nAccept: text/event-stream\r\nsec-ch-ua: \"Chromium\";v=\"142\"\r\n\
    sec-ch-ua-mobile: ?0\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
    Referer: https://app.example.org/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef\r\nCache-Control: no-cache\r\n\r\n";

const RESPONSE: [(&str, &str); 5] = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("Connection", "keep-alive"),
    ("Date", "Wed, 25 Nov 2026 12:00:00 GMT"),
    ("Transfer-Encoding", "chunked"),
];

/// A request as a reactor reads it.
fn read(bytes: &[u8]) -> RequestHeader {
    let bytes = Bytes::copy_from_slice(bytes);
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let parsed = RequestHead::parse(&bytes, &HeadLimits::default(), &mut fields).expect("valid").expect("whole");
    let method = Method::from_bytes(parsed.method.as_bytes()).expect("method");
    let mut head = RequestHeader::build(method, parsed.target, Some(parsed.fields().count())).expect("target");
    head.set_version(Version::HTTP_11);
    for field in parsed.fields() {
        let name = bytes.slice_ref(field.name.as_bytes()).into_case_header_name();
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).expect("value");
        head.append_header(name, value).expect("field");
    }
    head
}

fn forward(request: &RequestHeader, client: IpAddr, trusted: &TrustedProxies) -> Vec<u8> {
    let mut upstream = headers::stream_request(request.clone(), false, None).expect("request");
    headers::set_forwarded(&mut upstream, Some(client), false, trusted).expect("fields");
    http_req_header_to_wire(&upstream).expect("wire").into()
}

fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request to the upstream");
    let (client, trusted) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), TrustedProxies::default());
    for (name, bytes) in [("small", SMALL), ("browser", BROWSER)] {
        group.bench_with_input(BenchmarkId::from_parameter(name), bytes, |bencher, bytes| {
            bencher.iter(|| forward(&read(black_box(bytes)), client, &trusted));
        });
    }
}

fn response(criterion: &mut Criterion) {
    let mut received = ResponseHeader::build(200, None).expect("response");
    for (name, value) in RESPONSE {
        received.append_header(name, value).expect("field");
    }
    criterion.bench_function("response head to the client", |bencher| {
        bencher.iter(|| {
            let mut head = black_box(&received).clone();
            assert!(headers::is_event_stream(&head) && headers::is_identity(&head));
            black_box(headers::response_body(&head)).expect("framing");
            headers::stream_response(&mut head, true).expect("fields");
            let mut out = Vec::new();
            headers::write_response(&head, &mut out);
            out
        });
    });
}

criterion_group!(benches, request, response);
criterion_main!(benches);
