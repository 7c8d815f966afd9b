//! `sse-loadgen run` over TLS, HTTP/2 and HTTP/2 without TLS, against a server that does what it is told to.

mod support;
#[path = "support/tls_server.rs"]
mod tls_server;

use std::sync::atomic::Ordering;

use h2::Reason;
use serde_json::Value;
use support::{is_only_busy, origin, program, run, run_json, text};
use tls_server::{Behaviour, Server, ServerProtocol};

/// Runs against the server, believing its certificate.
fn run_against(server: &Server, arguments: &[&str]) -> (i32, Value, String) {
    let certificate = server.certificate.display().to_string();
    let url = server.url();
    let trust = if server.certificate.exists() { &["--cacert", certificate.as_str()][..] } else { &[] };
    let duration = if arguments.contains(&"-d") { &[][..] } else { &["-d", "20s"] };
    run_json(&[duration, trust, arguments, &[url.as_str()]].concat())
}

const ALL: [(ServerProtocol, &[&str], &str); 3] = [
    (ServerProtocol::TLS, &[], "tls"),
    (ServerProtocol::H2, &["--http2"], "h2"),
    (ServerProtocol::H2C, &["--http2"], "h2c"),
];

#[test]
fn every_event_is_whole_however_small_the_pieces_and_trailers_end_it_cleanly() {
    for (protocol, arguments, name) in ALL {
        for behaviour in [Behaviour::Clean, Behaviour::Bytewise] {
            let server = Server::start(protocol.clone(), behaviour);
            let (code, document, all) = run_against(&server, &[arguments, &["-c", "7"]].concat());
            assert!(code == 0 || is_only_busy(&document), "{name} {behaviour:?}: {all}");
            assert_eq!(document["counts"]["stamped"], 7 * 3, "{name} {behaviour:?}: {all}");
            assert_eq!(document["ends"], serde_json::json!({"clean_end": 7}), "{name} {behaviour:?}: {all}");
            let integrity = serde_json::json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0});
            assert_eq!(document["integrity"], integrity, "{name} {behaviour:?}: {all}");
            for time in ["ttfb_us", "ttfb_from_due_us", "first_event_us", "first_event_from_due_us"] {
                assert_eq!(document["distributions"][time]["count"], 7, "{name} {time}");
            }
            assert_eq!(document["distributions"]["connect_from_due_us"]["count"], document["counts"]["connected"]);
            assert_eq!(document["conditions"]["protocol"], name);
            assert_eq!(
                document["distributions"]["tls_handshake_us"]["count"],
                if protocol.name.is_some() { document["counts"]["connected"].clone() } else { 0.into() }
            );
        }
    }
}

#[test]
fn streams_fill_one_connection_after_the_other() {
    for (streams, processes, each, connections) in [("10", "1", "4", 3), ("10", "2", "4", 4), ("3", "1", "100", 1)] {
        let server = Server::start(ServerProtocol::H2, Behaviour::Held);
        let (_, document, all) = run_against(
            &server,
            &["--http2", "--streams-per-connection", each, "-c", streams, "--processes", processes, "-d", "100ms"],
        );
        assert_eq!(document["counts"]["open"].to_string(), streams, "{all}");
        assert_eq!(document["counts"]["connected"], connections, "{all}");
        assert_eq!(server.connections.load(Ordering::Relaxed), connections, "{all}");
        assert_eq!(document["conditions"]["streams_per_connection"].to_string(), each);
        assert!(all.contains(&format!("HTTP/2 over TLS, {each} streams per connection")), "{all}");
    }
}

#[test]
fn host_and_sni_are_those_of_the_url_and_the_request_is_what_was_asked() {
    for (protocol, arguments, name) in ALL {
        let server = Server::start(protocol.clone(), Behaviour::Clean);
        run_against(&server, &[arguments, &["-c", "1", "-H", "X-Key: v"]].concat());
        let (requests, host) = (server.requests(), format!("localhost:{}", server.address.port()));
        assert_eq!(requests.contains("sni localhost"), protocol.name.is_some(), "{requests}");
        let expected = if protocol.http2 {
            let scheme = if protocol.name.is_some() { "https" } else { "http" };
            vec![format!("GET {scheme}://{host}/events?x=1 "), "\"x-key\": \"v\"".to_owned()]
        } else {
            vec!["GET /events?x=1 HTTP/1.1\r\n".to_owned(), format!("Host: {host}\r\n"), "X-Key: v\r\n".to_owned()]
        };
        assert!(expected.iter().all(|part| requests.contains(part.as_str())), "{name}: {requests}");
        assert!(requests.contains("text/event-stream"), "{name}: {requests}");
    }
}

#[test]
fn a_body_is_sent_over_http2() {
    let server = Server::start(ServerProtocol::H2C, Behaviour::Clean);
    let (_, document, all) = run_against(&server, &["--http2", "-c", "2", "--body", "{\"stream\":true}"]);
    assert_eq!(document["ends"]["clean_end"], 2, "{all}");
    let requests = server.requests();
    assert!(requests.contains("POST ") && requests.contains("\"content-length\": \"15\""), "{requests}");
}

#[test]
fn every_early_end_has_its_reason_and_makes_the_result_invalid() {
    const HTTP2: &[&str] = &["--http2"];
    const ALONE: &[&str] = &["--http2", "--streams-per-connection", "1"];
    let reset = |reason, name| (ServerProtocol::H2, HTTP2, Behaviour::Reset(reason), name);
    let goaway = |protocol, reason, name| (protocol, ALONE, Behaviour::GoAway(reason), name);
    for (protocol, arguments, behaviour, reason) in [
        (ServerProtocol::TLS, &[][..], Behaviour::Closed, "truncated"),
        reset(Reason::INTERNAL_ERROR, "rst_stream_internal_error"),
        reset(Reason::CANCEL, "rst_stream_cancel"),
        reset(Reason::NO_ERROR, "rst_stream_no_error"),
        goaway(ServerProtocol::H2, Reason::NO_ERROR, "goaway_no_error"),
        goaway(ServerProtocol::H2C, Reason::ENHANCE_YOUR_CALM, "goaway_enhance_your_calm"),
        (ServerProtocol::H2C, HTTP2, Behaviour::InsideRecord, "end_inside_record"),
        (ServerProtocol::H2, HTTP2, Behaviour::Missing, "status_404"),
        (ServerProtocol::H2, HTTP2, Behaviour::Page, "not_event_stream"),
        (ServerProtocol::TLS, &[], Behaviour::Page, "not_event_stream"),
        (ServerProtocol::TLS, &[], Behaviour::Coded, "content_coding_gzip"),
        (ServerProtocol::H2, HTTP2, Behaviour::Coded, "content_coding_br"),
        (ServerProtocol::H2, HTTP2, Behaviour::LargeHead, "head_over_256_kib"),
    ] {
        let server = Server::start(protocol, behaviour);
        let (code, document, all) = run_against(&server, &[arguments, &["-c", "3"]].concat());
        assert_eq!(code, 2, "{behaviour:?}: {all}");
        assert_eq!(document["ends"], serde_json::json!({reason: 3}), "{behaviour:?}: {all}");
        if matches!(behaviour, Behaviour::Reset(_) | Behaviour::GoAway(_) | Behaviour::Closed) {
            assert_eq!(document["counts"]["stamped"], 3, "what came before it counts: {all}");
        }
    }
}

#[test]
fn an_upload_that_is_refused_early_counts_by_its_status() {
    // Invariant: an answer counts by what it says. A server that answers before it has read the body, and closes, resets the
    // connection; the failed write hid the answer, so that a 413 counted as `reset`.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let body = directory.path().join("body");
    std::fs::write(&body, vec![b'x'; 8 << 20]).expect("writable");
    let body = format!("@{}", body.display());
    let plain = ServerProtocol { name: None, ..ServerProtocol::TLS };
    for (protocol, arguments) in [
        (plain, &[][..]),
        (ServerProtocol::TLS, &[]),
        (ServerProtocol::H2, &["--http2"]),
        (ServerProtocol::H2C, &["--http2"]),
    ] {
        let server = Server::start(protocol, Behaviour::Refused);
        let (code, document, all) = run_against(&server, &[arguments, &["-c", "5", "--body", &body]].concat());
        assert_eq!((code, &document["ends"]), (2, &serde_json::json!({"status_413": 5})), "{all}");
    }
}

#[test]
fn a_goaway_ends_all_streams_of_its_connection_and_no_others() {
    let server = Server::start(ServerProtocol::H2, Behaviour::GoAway(Reason::NO_ERROR));
    let (code, document, all) =
        run_against(&server, &["--http2", "--streams-per-connection", "2", "-c", "4", "--in-flight", "1"]);
    assert_eq!(code, 2, "{all}");
    assert_eq!(document["ends"], serde_json::json!({"goaway_no_error": 4}), "{all}");
}

#[test]
fn a_server_that_allows_fewer_streams_is_told_with_what_would_fit() {
    let server = Server::start(ServerProtocol { max_streams: Some(5), ..ServerProtocol::H2 }, Behaviour::Held);
    let (code, document, all) =
        run_against(&server, &["--http2", "--streams-per-connection", "8", "-c", "12", "-d", "100ms"]);
    assert_eq!((code, &document["counts"]["open"]), (2, &9.into()), "{all}");
    assert_eq!(document["ends"], serde_json::json!({"stream_limit_5": 3}), "{all}");
    assert!(all.contains("use --streams-per-connection 5"), "{all}");
    let (_, document, all) =
        run_against(&server, &["--http2", "--streams-per-connection", "5", "-c", "12", "-d", "100ms"]);
    assert_eq!(document["counts"]["open"], 12, "{all}");
}

#[test]
fn certificates_are_verified_as_they_should_be() {
    let stranger = Server::start(ServerProtocol::TLS, Behaviour::Clean);
    let other =
        Server::start(ServerProtocol { name: Some("elsewhere.example"), ..ServerProtocol::TLS }, Behaviour::Clean);
    let file = |server: &Server| server.certificate.display().to_string();
    let (unknown, wrong_name) = ("certificate_unknown_issuer", "certificate_other_name");
    for (server, trust, reason, remedy) in [
        (&stranger, &["--cacert", &file(&other)][..], unknown, "--cacert"),
        (&other, &["--cacert", &file(&other)], wrong_name, "other names than the URL's"),
        (&stranger, &["--insecure"], "clean_end", ""),
        (&other, &["-k"], "clean_end", ""),
        (&stranger, &["--cacert", &file(&stranger)], "clean_end", ""),
    ] {
        let url = server.url();
        let (code, document, all) = run_json(&[&["-c", "2", "-d", "20s"], trust, &[url.as_str()]].concat());
        assert_eq!(document["ends"], serde_json::json!({reason: 2}), "{all}");
        assert_eq!(code == 2 && !is_only_busy(&document), reason != "clean_end", "{all}");
        assert!(all.contains(remedy), "{all}");
    }
    // The system's authorities: those of this file, when it is named so.
    let system = |server: &Server| {
        let output = program()
            .args(["run", "-c", "1", "-d", "20s", &stranger.url()])
            .env("SSL_CERT_FILE", &server.certificate)
            .env_remove("SSL_CERT_DIR")
            .output();
        text(&output.expect("the program starts").stdout)
    };
    assert!(system(&stranger).contains("1 clean_end"));
    assert!(system(&other).contains("1 certificate_unknown_issuer"));
}

#[test]
fn a_server_that_does_not_speak_what_was_asked_for_is_told_so() {
    let (_origin, address) = origin();
    let plain = format!("http://{address}/events?count=1");
    let tls_only_http1 = Server::start(ServerProtocol::TLS, Behaviour::Clean);
    let without_alpn = Server::start(ServerProtocol { alpn: &[], ..ServerProtocol::TLS }, Behaviour::Clean);
    for (url, arguments, reason, remedy) in [
        (plain.clone(), &["--http2"][..], "no_http2", "leave out --http2"),
        (tls_only_http1.url(), &["--http2", "-k"], "no_http2", "leave out --http2"),
        (without_alpn.url(), &["--http2", "-k"], "no_http2", "leave out --http2"),
        (plain.replace("http:", "https:"), &["-k"], "not_tls", "use http://"),
        (without_alpn.url().replace("https:", "http:"), &[], "", ""),
    ] {
        let (code, document, all) = run_json(&[&["-c", "2", "-d", "20s"], arguments, &[url.as_str()]].concat());
        assert_eq!((code, &document["counts"]["streams"]), (2, &0.into()), "{url}: {all}");
        assert!(reason.is_empty() || document["ends"] == serde_json::json!({reason: 2}), "{url}: {all}");
        assert!(all.contains(remedy), "{url}: {all}");
    }
}

#[test]
fn limits_count_connections_and_not_streams() {
    // Far more streams than this process may have descriptors; the port is closed, so that it ends at once.
    let url = "http://127.0.0.1:1/events";
    let limit = sse_loadgen::limits::raise_descriptor_limit();
    let streams = (limit * 2).to_string();
    let alone = run(&["run", "-c", &streams, url]);
    assert_eq!(alone.status.code(), Some(64), "{}", text(&alone.stderr));
    let shared = run(&["run", "-c", &streams, "--ramp", "0s", "--http2", "--streams-per-connection", "1000", url]);
    assert_eq!(shared.status.code(), Some(2), "{}", text(&shared.stderr));
    assert!(text(&shared.stdout).contains(&format!("{streams} refused")), "{}", text(&shared.stdout));
}
