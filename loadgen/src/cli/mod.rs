//! The command line: commands, options, defaults and examples. Decides nothing.

mod bench;
mod compare;
mod exit_codes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use self::exit_codes::EXIT_CODES;
pub use bench::BenchArgs;
pub use compare::{CompareArgs, KneeArgs, ProgramArgs, StackArgs};

const EXAMPLES: &str = "Examples:
  sse-loadgen origin --listen 127.0.0.1:9000
  sse-loadgen run -c 1000 -d 30s 'http://127.0.0.1:9000/events?interval=1s'
  sse-loadgen compare --streams 5000 --rounds 2 --json compare.json
  sse-loadgen compare --protocol h2 --streams-per-connection 50
  sse-loadgen knee --streams 1000
  sse-loadgen bench --quick
  sse-loadgen merge load-1.json load-2.json";

/// Load generator and measuring instrument for Server-Sent Events.
#[derive(Debug, Parser)]
#[command(name = "sse-loadgen", version, about, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 110)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open streams and measure what they deliver
    Run(Box<RunArgs>),
    /// Measure direct, nginx, sse-proxy and nginx in front of sse-proxy side by side
    Compare(Box<CompareArgs>),
    /// Find the highest event rate that each target carries with a low latency
    Knee(Box<KneeArgs>),
    /// Measure everything in docs/benchmarks.md, and write that page
    Bench(Box<BenchArgs>),
    /// Add up the results of runs that loaded the same thing together
    Merge(MergeArgs),
    /// Show a saved result again
    Report(ReportArgs),
    /// Serve the built-in backend
    Origin(OriginArgs),
    /// Report memory and CPU time of a program in another container to `compare --service`
    Gauge(GaugeArgs),
    /// A worker process of `run` or `compare`
    #[command(hide = true)]
    Worker,
    /// Replaces itself by another program that ends when its parent does
    #[command(hide = true)]
    ExecWithParent(ExecWithParentArgs),
}

const RUN_EXAMPLES: &str = "Examples:
  sse-loadgen run -c 1000 --ramp 500/s -d 1m 'http://127.0.0.1:9000/events?interval=1s&size=200'
  sse-loadgen run -c 60000 --processes 4 --source 127.0.0.2-127.0.0.9 http://127.0.0.1:8080/events
  sse-loadgen run -c 5000 --http2 --streams-per-connection 50 https://sse.example/events
  sse-loadgen run -c 5000 --cacert authority.pem 'https://localhost:8443/events?interval=1s'
  sse-loadgen run -c 10 -X POST -H 'Content-Type: application/json' --body '{\"stream\":true}' http://127.0.0.1:3000/v1/chat
  sse-loadgen run -c 500 --fail-if 'p99>50ms' --fail-if 'lost>0' --json run.json --hgrm out/run http://127.0.0.1:8080/events

Streams of the built-in origin carry stamps, so that delivery latency counts from when each event was due, and lost,
repeated, torn and damaged events are counted. Other backends are measured too: first byte, gaps, counts.

https:// speaks HTTP/1.1 over TLS, with --http2 HTTP/2 (ALPN); http:// speaks HTTP/1.1, with --http2 HTTP/2 with prior
knowledge. A stream of HTTP/1.1 has a connection of its own; with HTTP/2 streams share connections, filled one after the
other, as many on each as --streams-per-connection says: every connection stands for a browser. Every handshake is a full
one, as for a browser's first visit. With --cacert only the certificates in that file are trusted.";

/// Options of `run`.
#[derive(Debug, Args)]
#[command(after_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct RunArgs {
    /// URLs to connect to; several are used in turn
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// Number of streams to hold open
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Use HTTP/2: negotiated by ALPN over https, with prior knowledge over http
    #[arg(long)]
    pub http2: bool,
    /// Streams per HTTP/2 connection [default: 100, which servers should allow]
    #[arg(long, value_name = "N", requires = "http2", value_parser = clap::value_parser!(u64).range(1..))]
    pub streams_per_connection: Option<u64>,
    /// Trust only the certificate authorities in this PEM file, not the system's
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Do not verify servers' certificates
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// How to open streams: over a time (10s) or at a rate (500/s)
    #[arg(long, default_value = "1000/s")]
    pub ramp: String,
    /// How long to measure after the ramp
    #[arg(short, long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Source addresses: a list of addresses and ranges such as 127.0.0.2-127.0.0.9
    #[arg(long, value_name = "ADDRESSES")]
    pub source: Option<String>,
    /// Add a request header, `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Request method [default: GET, or POST with a body]
    #[arg(short = 'X', long)]
    pub method: Option<String>,
    /// Request body, or @FILE
    #[arg(long)]
    pub body: Option<String>,
    /// Number of worker processes to spread the streams over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub processes: u64,
    /// How many streams may be opening at once
    #[arg(long, default_value_t = 256)]
    pub in_flight: usize,
    /// Timeout of connecting, handshakes included
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,
    /// Timeout of the response head
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub head_timeout: Duration,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write percentile distributions to PREFIX.latency_us.hgrm and so on
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
    /// Fail when the result crosses a threshold, such as `p99>50ms` or `lost>0`
    #[arg(long, value_name = "METRIC>LIMIT")]
    pub fail_if: Vec<String>,
}

const MERGE_HELP: &str = "Examples:
  sse-loadgen merge load-1.json load-2.json load-3.json
  sse-loadgen merge report/*.json --json merged.json --hgrm out/merged --fail-if 'p99>50ms'

Files are those of `run --json`. Counts are added, and histograms bucket by bucket, so that percentiles are those of one run
with all the streams; percentiles are never averaged. A run that is given twice, a file of another kind or version, and a
histogram with other buckets are refused. Runs that did not overlap in time make the result invalid.";

/// Options of `merge`.
#[derive(Debug, Args)]
#[command(after_help = format!("{MERGE_HELP}\n\n{EXIT_CODES}"))]
pub struct MergeArgs {
    /// Results of `run --json`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write percentile distributions to PREFIX.latency_us.hgrm and so on
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
    /// Fail when the result crosses a threshold, such as `p99>50ms` or `lost>0`
    #[arg(long, value_name = "METRIC>LIMIT")]
    pub fail_if: Vec<String>,
}

const REPORT_HELP: &str = "Examples:
  sse-loadgen report target/report/compare.json
  sse-loadgen report merged.json --hgrm out/merged
  sse-loadgen report target/report/bench.json > docs/benchmarks.md";

/// Options of `report`.
#[derive(Debug, Args)]
#[command(after_help = format!("{REPORT_HELP}\n\n{EXIT_CODES}"))]
pub struct ReportArgs {
    /// A result of `run`, `merge`, `compare`, `knee` or `bench` with `--json`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write percentile distributions: PREFIX.latency_us.hgrm and so on, of a comparison PREFIX.TARGET.latency_us.hgrm
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
}

const ORIGIN_HELP: &str = "Streams are at /events and take these query parameters:
  interval=1s          time between events          size=100            bytes of data text per event
  count=N              end after N events           then=close|hold     what follows the last one
  start_after=5s       silence first                start_at=UNIX_US    nothing is due earlier
  gate=NAME            wait for POST /gate?name=NAME&at=UNIX_US
  schedule=staggered|broadcast   each stream its own phase, or all on the wall clock's ticks
  eol=lf|cr|crlf|mixed split=N|random  bom=1  multiline=N  name=EVENT  comments=5s  retry=3s
  framing=chunked|length|close   trailers=1
  silent  flood  hang  first_byte_delay=2s  abort_after=N
A `Last-Event-ID` header continues the sequence. Other pages: / /json /echo /status/NNN /redirect /large?bytes=N /healthz";

/// Options of `origin`.
#[derive(Debug, Args)]
#[command(after_help = ORIGIN_HELP)]
pub struct OriginArgs {
    /// Address to listen on; can be repeated; port 0 takes a free port. Prints the address once it is ready
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: Vec<SocketAddr>,
    /// Number of threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

const GAUGE_HELP: &str = "Reads PSS and CPU time of a process and its descendants (/proc), and memory charged to its container (the files of its
memory cgroup, versions 2 and 1), each time `/` is asked for. In a container of its own it needs the other's process
namespace (`pid: service:NAME`, `--pid=container:NAME`), the same user, and for the cgroup the machine's /sys/fs/cgroup,
mounted read-only; no capability. What cannot be read is null, with the reason in `unread`.";

/// Options of `gauge`.
#[derive(Debug, Args)]
#[command(after_help = GAUGE_HELP)]
pub struct GaugeArgs {
    /// Address to listen on. Prints the address once it is ready
    #[arg(long, default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// Process to read, with all its descendants; 1 in a container's namespace
    #[arg(long, default_value_t = 1)]
    pub pid: u32,
    /// Where the machine's /sys/fs/cgroup is mounted
    #[arg(long, value_name = "DIRECTORY", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
}

/// Options of the hidden `exec-with-parent`.
#[derive(Debug, Args)]
pub struct ExecWithParentArgs {
    /// End it with SIGTERM instead of SIGKILL
    #[arg(long)]
    pub sigterm: bool,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    pub program: Vec<std::ffi::OsString>,
}
