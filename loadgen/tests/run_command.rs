//! `sse-loadgen run` against the built-in origin and against backends that are not ours.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sse_loadgen::cli::{Cli, Command};
use sse_loadgen::error::Outcome;
use sse_loadgen::report::progress::Terminal;
use support::{is_only_busy, origin, program, run_json, text};

/// A backend that answers every connection with `response` and then closes or holds it.
fn backend(response: &'static [u8], holds: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            let _ = io.read(&mut [0; 4096]);
            let _ = io.write_all(response);
            if holds {
                held.push(io);
            }
        }
    });
    address
}

#[test]
fn streams_are_held_and_every_event_is_accounted_for() {
    let (_origin, address) = origin();
    let url = format!("http://{address}/events?interval=50ms");
    let (code, document, all) = run_json(&["-c", "40", "-d", "500ms", "--ramp", "400/s", &url]);
    assert!(code == 0 || is_only_busy(&document), "{all}");
    assert_eq!(document["counts"]["open"], 40, "{all}");
    assert_eq!(document["integrity"], serde_json::json!({"lost": 0, "duplicated": 0, "torn": 0, "corrupted": 0}));
    assert!(document["counts"]["stamped"].as_u64() >= Some(40 * 8), "{all}");
    assert!(document["distributions"]["latency_us"]["p99"].as_u64().is_some());
    assert!(document["conditions"]["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("Linux")));
    assert!(all.contains("due → read") && all.contains("p99.9"), "{all}");
}

#[test]
fn opening_counts_from_when_the_ramp_had_a_stream_due() {
    // Invariant: a target that is slow to open shows in the opening phase. Its times began when a stream had its turn, after
    // waiting for others to open, so that ten streams in a row of 100 ms each looked like 100 ms (coordinated omission).
    let (_origin, address) = origin();
    let url = format!("http://{address}/events?first_byte_delay=100ms&interval=10ms&count=3");
    let (_, document, all) = run_json(&["-c", "10", "-d", "20s", "--ramp", "100/s", "--in-flight", "1", &url]);
    let ms = |name: &str, quantile: &str| {
        document["distributions"][name][quantile].as_u64().unwrap_or_else(|| panic!("{name}: {all}")) / 1000
    };
    // The last is due after 90 ms, and has its turn after nine others.
    for (name, from_due_name, turns) in [
        ("connect_us", "connect_from_due_us", 9),
        ("ttfb_us", "ttfb_from_due_us", 10),
        ("first_event_us", "first_event_from_due_us", 10),
    ] {
        let (raw, from_due) = (ms(name, "p50"), ms(from_due_name, "max"));
        assert!(raw < 400 && from_due >= turns * 100 - 91, "{name}: {raw} ms, from due {from_due} ms: {all}");
        assert_eq!(document["distributions"][from_due_name]["count"], 10, "{all}");
    }
    assert_eq!(all.matches("\n  from due ").count(), 3, "{all}");
}

#[test]
fn worker_processes_share_the_streams_and_their_records_are_merged() {
    let (_origin, address) = origin();
    let url = format!("http://{address}/events?interval=10ms&count=20");
    let (code, document, all) = run_json(&["-c", "31", "--processes", "3", "-d", "20s", "--ramp", "0s", &url]);
    assert!(code == 0 || is_only_busy(&document), "{all}");
    assert_eq!(document["counts"]["stamped"], 31 * 20, "{all}");
    assert_eq!(document["distributions"]["latency_us"]["count"], 31 * 20);
    assert_eq!(document["ends"]["clean_end"], 31, "{all}");
}

#[test]
fn sources_and_destinations_are_all_used() {
    let (_one, first) = origin();
    let (_other, second) = origin();
    let urls = [first, second].map(|address| format!("http://{address}/events?interval=5ms&count=2"));
    let (_, document, all) =
        run_json(&["-c", "12", "--source", "127.0.0.2-127.0.0.4", "-d", "20s", &urls[0], &urls[1]]);
    assert_eq!(document["ends"]["clean_end"], 12, "{all}");
}

#[test]
fn a_backend_without_stamps_is_measured_too() {
    let address = backend(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hi\n\ndata: one\n\ndata: two\n\nevent: x\ndata: three\n\n",
        false,
    );
    let (code, document, all) = run_json(&["-c", "4", "-d", "20s", &format!("http://{address}/stream")]);
    assert!(code == 0 || is_only_busy(&document), "{all}");
    assert_eq!(document["counts"]["events"], 12);
    assert_eq!((&document["counts"]["stamped"], &document["counts"]["heartbeats"]), (&0.into(), &4.into()));
    assert_eq!(document["distributions"]["gap_us"]["count"], 8);
    assert_eq!(document["distributions"]["latency_us"]["p50"], Value::Null);
    assert!(all.contains("integrity   not known"), "{all}");
}

#[test]
fn every_early_end_has_its_reason_and_makes_the_result_invalid() {
    let (_origin, address) = origin();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    let html = backend(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", true);
    let broken = backend(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        true,
    );
    let broken_off = |last: &str, holds| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        backend(Box::leak(format!("{head}9\r\ndata: a\n\n\r\n{last}").into_boxed_str()).as_bytes(), holds)
    };
    let (cut, cut_and_more, other_size) =
        (broken_off("ff\n", false), broken_off("ff\nx", true), broken_off("fe\n", true));
    let noise = backend(b"SSH-2.0-x\r\n\r\n", true);
    let coded =
        backend(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b", true);
    let head = |fields: String| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields}\r\n");
        backend(Box::leak(head.into_boxed_str()).as_bytes(), true)
    };
    let (many, long) = (head("x: y\r\n".repeat(120)), head(format!("x: {}\r\n", "y".repeat(70_000))));
    let half = backend(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: half", false);
    for (url, reason) in [
        (format!("http://{coded}/"), "content_coding_gzip"),
        (format!("http://{many}/"), "head_over_100_fields"),
        (format!("http://{long}/"), "head_over_64_kib"),
        (format!("http://{address}/events?interval=1ms&abort_after=2"), "truncated"),
        (format!("http://{address}/events?interval=1ms&abort_after=2&framing=close"), "reset"),
        (format!("http://{address}/status/503"), "status_503"),
        (format!("http://{address}/events?hang"), "head_timeout"),
        (format!("http://{closed}/"), "refused"),
        (format!("http://{html}/"), "not_event_stream"),
        (format!("http://{broken}/"), "malformed"),
        (format!("http://{cut}/"), "truncated"),
        (format!("http://{cut_and_more}/"), "malformed"),
        (format!("http://{other_size}/"), "malformed"),
        (format!("http://{noise}/"), "malformed"),
        (format!("http://{half}/"), "end_inside_record"),
    ] {
        let (code, document, all) = run_json(&["-c", "3", "-d", "20s", "--head-timeout", "300ms", &url]);
        assert_eq!(code, 2, "{url}: {all}");
        assert_eq!(document["ends"][reason], 3, "{url}: {all}");
        assert_eq!(document["valid"], false);
        let remedy = match reason {
            "content_coding_gzip" => "(Content-Encoding: gzip)",
            "head_over_100_fields" | "head_over_64_kib" => "fewer or shorter header fields",
            _ => "remedy: ",
        };
        assert!(all.contains(remedy), "{url}: {all}");
    }
}

#[test]
fn a_torn_event_is_told_from_a_damaged_one() {
    // A heartbeat between `id` and `data` makes two records of one; a changed byte breaks the checksum.
    let (_origin, address) = origin();
    let whole = support::get(address, "/events?count=1&interval=1ms", "").body;
    let torn = text(&whole).replace("\ndata:", "\n\ndata:");
    let damaged = text(&whole).replace("\"pad\":\"b", "\"pad\":\"B").replace("\"len\":100, ", "\"len\":100,X");
    for (body, fault) in [(torn, "torn"), (damaged, "corrupted")] {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}");
        let address = backend(Box::leak(response.into_boxed_str()).as_bytes(), false);
        let (code, document, all) = run_json(&["-c", "1", "-d", "20s", &format!("http://{address}/")]);
        assert_eq!((code, &document["integrity"][fault]), (2, &1.into()), "{fault}: {body} {all}");
    }
}

#[test]
fn method_headers_and_body_reach_the_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&seen);
    std::thread::spawn(move || {
        let (mut io, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(io.try_clone().expect("a handle"));
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            reader.read_line(&mut request).expect("a request");
        }
        let mut body = [0; 15];
        reader.read_exact(&mut body).expect("a body");
        *writer.lock().expect("no panic") = request + &text(&body);
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n");
    });
    let url = format!("http://{address}/chat");
    run_json(&[
        "-c",
        "1",
        "-d",
        "20s",
        "-X",
        "PUT",
        "-H",
        "Authorization: Bearer t",
        "--body",
        "{\"stream\":true}",
        &url,
    ]);
    let seen = seen.lock().expect("no panic");
    assert!(seen.starts_with("PUT /chat HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("Authorization: Bearer t\r\n") && seen.ends_with("\r\n\r\n{\"stream\":true}"), "{seen}");
}

#[test]
fn a_crossed_threshold_fails_and_a_kept_one_does_not() {
    let (_origin, address) = origin();
    let url = format!("http://{address}/events?interval=5ms&count=3");
    let run = |limit: &str| run_json(&["-c", "2", "-d", "20s", "--fail-if", limit, &url]);
    let (code, document, all) = run("lost>0");
    assert!(code == 0 || is_only_busy(&document), "{all}");
    let (code, document, all) = run("max>0s");
    assert!(code == 1 || is_only_busy(&document), "{all}");
    assert!(all.contains("Failed: max>0s"), "{all}");
}

#[test]
fn percentile_files_are_written() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let prefix = directory.path().join("out/run");
    let url = format!("http://{address}/events?interval=5ms&count=3");
    let output = program()
        .args(["run", "-c", "2", "-d", "20s", "--hgrm"])
        .arg(&prefix)
        .arg(&url)
        .output()
        .expect("the program starts");
    assert!(directory.path().join("out/run.latency_us.hgrm").exists(), "{}", text(&output.stderr));
}

#[test]
fn an_interrupt_shows_what_was_measured_so_far() {
    let (_origin, address) = origin();
    let mut child = program()
        .args(["run", "-c", "5", "-d", "1h", "--processes", "2", &format!("http://{address}/events?interval=10ms")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut progress = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    // The first line of progress comes after the first report: by then signals are caught.
    progress.read_line(&mut line).expect("progress");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{line}");
    assert!(text(&output.stdout).contains("interrupted"), "{}", text(&output.stdout));
}

/// A writer whose content can be looked at afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_run_can_be_called_as_a_library() {
    let (_origin, address) = origin();
    let url = format!("http://{address}/events?interval=5ms&count=4");
    let cli = Cli::try_parse_from(["sse-loadgen", "run", "-c", "3", "-d", "20s", &url]).expect("valid");
    let Command::Run(args) = cli.command else { panic!("not a run") };
    let (out, err) = (Shared::default(), Shared::default());
    let mut terminal =
        Terminal { out: Box::new(out.clone()), err: Box::new(err), is_interactive: false, has_colour: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(sse_loadgen::commands::run::run(&args, &mut terminal)).expect("a result");
    assert!(matches!(outcome, Outcome::Good | Outcome::NotValid), "{outcome:?}");
    assert!(text(&out.0.lock().expect("no panic")).contains("0 lost, 0 duplicated, 0 torn, 0 corrupted"));
}
