//! What the integration tests share: an origin on a free port, raw requests with a deadline, the program itself.

// Every test file takes what it needs of this.
#![allow(dead_code)]

pub(crate) mod schema;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sse_loadgen::origin::{Origin, OriginConfig};
use sse_loadgen::sse::parser::{Item, Parser};
use sse_loadgen::stamp::{self, Reading, Stamp};
use sse_loadgen::wire::body::Body;
use sse_loadgen::wire::head::{self, Head};

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// An origin on a free port; it listens when this returns.
pub(crate) fn origin() -> (Origin, SocketAddr) {
    let config = OriginConfig { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], threads: 2 };
    let origin = Origin::start(&config).expect("a free port");
    let address = origin.addresses()[0];
    (origin, address)
}

/// A connection whose reads and writes fail at the deadline.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let io = TcpStream::connect(address).expect("the address listens");
    io.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    io.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    io
}

/// A response read as far as it goes.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) head_text: String,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub(crate) is_whole: bool,
    /// Trailer fields.
    pub(crate) trailers: u16,
}

/// Sends raw bytes and reads one response to its end.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> Response {
    let mut io = connect(address);
    io.write_all(request.as_bytes()).expect("sent");
    read_response(&mut io)
}

/// `GET target` with further header lines.
pub(crate) fn get(address: SocketAddr, target: &str, headers: &str) -> Response {
    exchange(address, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
}

/// Reads a response head; returns it with what has come of the body.
pub(crate) fn read_head(io: &mut TcpStream) -> (Head, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = head::parse(&bytes).expect("a valid head") {
            return (head, bytes);
        }
        let mut buffer = [0; 4096];
        let count = io.read(&mut buffer).expect("a head in time");
        assert!(count > 0, "the connection ended inside the head: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
}

pub(crate) fn read_response(io: &mut TcpStream) -> Response {
    let (head, bytes) = read_head(io);
    let head_text = String::from_utf8_lossy(&bytes[..head.bytes]).into_owned();
    let mut body = Body::new(head.framing);
    let mut content = Vec::new();
    let mut buffer = vec![0; 65536];
    let mut fresh = bytes[head.bytes..].to_vec();
    loop {
        body.feed(&fresh, |piece| content.extend_from_slice(piece)).expect("valid framing");
        if body.is_done() {
            break;
        }
        match io.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => fresh = buffer[..count].to_vec(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Response { head, head_text, body: content, is_whole: false, trailers: 0 };
            }
            Err(error) => panic!("the body did not end in time: {error}"),
        }
    }
    let trailers = if let Body::Chunked(decoder) = &body { decoder.trailers() } else { 0 };
    Response { head, head_text, body: content, is_whole: body.may_end_here(), trailers }
}

/// The stamps in a body, and how many comments; every event has to be whole and to have its own id.
pub(crate) fn stamps(body: &[u8]) -> (Vec<Stamp>, usize) {
    let (mut stamps, mut comments) = (Vec::new(), 0);
    Parser::default().feed(body, |item| match item {
        Item::Event { name, data, last_event_id, has_own_id } => match stamp::read(name, data) {
            Reading::Whole(stamp) => {
                assert_eq!((last_event_id, has_own_id), (stamp.seq.to_string().as_bytes(), true));
                stamps.push(stamp);
            }
            other => panic!("{other:?}: {:?}", String::from_utf8_lossy(data)),
        },
        Item::Comment(_) => comments += 1,
        Item::Retry(_) => {}
    });
    (stamps, comments)
}

pub(crate) fn seqs(stamps: &[Stamp]) -> Vec<u64> {
    stamps.iter().map(|stamp| stamp.seq).collect()
}

/// The program under test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-loadgen"));
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `run` with `--json`: returns exit code, document, and both outputs.
pub(crate) fn run_json(arguments: &[&str]) -> (i32, Value, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("deep/run.json");
    let output = program().arg("run").args(arguments).arg("--json").arg(&json).output().expect("the program starts");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let document = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("no JSON ({error}): {all}"));
    (output.status.code().expect("an exit code"), serde_json::from_str(&document).expect("JSON"), all)
}

/// Whether the only complaints are about a machine that is too busy for exact latencies: tests share theirs.
pub(crate) fn is_only_busy(document: &Value) -> bool {
    let warnings = document["warnings"].as_array().expect("warnings");
    warnings.iter().filter(|warning| warning["invalidates"] == true).all(|warning| {
        let cause = warning["cause"].as_str().unwrap_or_default();
        cause.contains("timers fired") || cause.contains("of a core")
    })
}

/// Polls until `is_true`, and fails at the deadline.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A configuration file of this repository.
pub(crate) fn configuration(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// sse-proxy: the one that `SSE_PROXY_BIN` names, or one that has been built beside the program under test.
pub(crate) fn built_proxy() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_sse-loadgen")).with_file_name("sse-proxy");
    let named = std::env::var_os("SSE_PROXY_BIN").map(PathBuf::from);
    named.into_iter().chain([built]).find(|file| file.is_file())
}

/// Whether a program is in PATH, or where Debian keeps servers.
pub(crate) fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.any(|directory| directory.join(name).is_file())
}
