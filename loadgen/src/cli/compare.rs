//! Options of `compare` and `knee`, which start the same programs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit_codes::EXIT_CODES;
use crate::protocol::Protocol;

const COMPARE_HELP: &str = "Examples:
  sse-loadgen compare --streams 5000 --rounds 2 --json target/report/compare.json
  sse-loadgen compare --streams 1000 --targets direct,nginx --duration 5s
  sse-loadgen compare --streams 9000 --schedule broadcast --proxy-bin target/release/sse-proxy
  sse-loadgen compare --streams 30000 --workers 4 --origins 2 --processes 2 --interval 5s --heartbeat 6s
  sse-loadgen compare --streams 5000 --ramp-rate max --rounds 3
  sse-loadgen compare --protocol h2 --streams-per-connection 50 --streams 4000
  sse-loadgen compare --streams 1000 --churn 100000 --targets nginx,haproxy,sse-proxy
  sse-loadgen compare --streams 2000 --origin http://origin:9000 --service direct=http://origin:9000 \\
      --service nginx=http://nginx:8080,http://nginx-gauge:9100      (docs/compose.md)

Every round starts each target anew, on free loopback ports, with an origin of its own. A target's turn: read its memory
idle, open --low streams, read, open the rest, hold them silent for longer than two heartbeats, read, then one event per
--interval on each stream for --duration, during which CPU time is counted, and read memory again.

  user memory    PSS of all of the target's processes (/proc/PID/smaps_rollup). memory/stream is the slope from --low to
                 --streams while they are silent, idle the reading before the first connection, all-in the growth from idle
                 to the reading under traffic, divided by the streams: it holds what an opening burst leaves behind
  kernel memory  live socket objects (/proc/slabinfo; all of Slab where that cannot be read) and TCP buffers
                 (/proc/net/sockstat) of the whole machine, as a slope, less the same slope of `direct`
  CPU per event  user and system time of the target's processes over the traffic phase, divided by events delivered
  services       with --service nothing is started: `idle` is read before the turn's first connection, and memory comes from
                 `sse-loadgen gauge` beside each program. Kernel memory is then what is charged to the container's cgroup
                 (kernel objects and socket buffers), and `cgroup` all that is charged to it but page cache, both as a slope
  opening        streams opened per second, by the clock, when --ramp-rate max opens as fast as 256 opening at once allow;
                 and CPU time of the target's processes meanwhile (at any rate), divided by the streams opened
  churn          PSS after each tenth of --churn streams that were opened and closed again, in batches
  stalled        growth of PSS, and of the machine's kernel memory, per stream that is flooded and never read, by a client with
                 4 KiB to receive into and segments as over Ethernet
  protocol       with --protocol tls, h2 or h2c the same configurations get a listener of that kind, with a self-signed
                 certificate (ECDSA P-256). Towards the origin it is always HTTP/1.1; of nginx+sse-proxy nginx
                 speaks it. `direct` is left out, since the origin speaks HTTP/1.1 alone, and with it `+ kernel`, from which it
                 would be taken away. With h2 and h2c each stream begins with a `retry` field: nginx keeps a response head until
                 data follows it
  latency        from when an event was due at the origin until a client had read it";

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(after_help = format!("{COMPARE_HELP}\n\n{EXIT_CODES}"))]
pub struct CompareArgs {
    /// Number of streams per target
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(2..))]
    pub streams: u64,
    /// Number of streams at the lower end of the memory slope [default: a fifth of --streams]
    #[arg(long)]
    pub low: Option<u64>,
    /// How often every target is measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Targets: direct, nginx, sse-proxy, nginx+sse-proxy, haproxy; with a --protocol other than h1 neither direct nor
    /// haproxy [default: direct,nginx,sse-proxy,nginx+sse-proxy, as far as they support the protocol]
    #[arg(long, value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Protocol between clients and targets: h1 (or http), tls (HTTP/1.1 over TLS), h2 (HTTP/2 over TLS) or h2c (HTTP/2 without)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub protocol: Protocol,
    /// Streams per connection with --protocol h2 and h2c; sse-proxy allows 256 [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub streams_per_connection: Option<u64>,
    /// Measure a running service instead of starting programs: NAME=URL[,GAUGE_URL...], with NAME as in --targets
    #[arg(long = "service", value_name = "SERVICE", requires = "origin", conflicts_with_all = ["targets", "proxy_bin", "nginx_bin", "haproxy_bin", "workers", "origins"])]
    pub services: Vec<String>,
    /// The built-in origin behind the services
    #[arg(long, value_name = "URL", requires = "services")]
    pub origin: Option<String>,
    /// How long events flow
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Time between two events of one stream; must be shorter than --heartbeat
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Bytes of data per event
    #[arg(long, default_value_t = 100)]
    pub size: u64,
    /// When events are due: staggered (an even flow) or broadcast (all at once)
    #[arg(long, default_value = "staggered", value_parser = ["staggered", "broadcast"])]
    pub schedule: String,
    /// Heartbeat interval of sse-proxy
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub heartbeat: Duration,
    /// How long to wait before reading memory; twice as long after all streams are closed
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub settle: Duration,
    /// How long all streams are held silent before memory is read [default: two heartbeats and a second, so that they have
    /// come and gone]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub hold: Option<Duration>,
    /// Connections opened per second, or `max` (or 0): as fast as 256 opening at once allow
    #[arg(long, default_value = "2000", value_parser = ramp_rate)]
    pub ramp_rate: u64,
    /// Afterwards open and close this many streams in all, in batches, and read memory meanwhile
    #[arg(long, default_value_t = 0, value_name = "STREAMS", hide_default_value = true)]
    pub churn: u64,
    /// Afterwards open this many streams, flood them without reading, and read memory. Bounded: each
    /// may hold a MiB and more of the kernel's
    #[arg(long, default_value_t = 0, value_name = "STREAMS", hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(..=500))]
    pub stalled: u64,
    /// Programs and processes.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What to start, and how: the same for `compare`, `knee` and `bench`.
#[derive(Debug, Clone, Default, Args)]
pub struct StackArgs {
    /// Worker processes: of nginx, of sse-proxy (which share the port), and as threads of HAProxy [default: one sse-proxy
    /// process, and what the configurations of the others say]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub workers: Option<u64>,
    /// Origin processes, used in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub origins: u64,
    /// Threads of each origin
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub origin_threads: u16,
    /// Client processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub processes: u64,
    /// What is started.
    #[command(flatten)]
    pub programs: ProgramArgs,
}

/// The programs to compare, and their configurations.
#[derive(Debug, Clone, Default, Args)]
pub struct ProgramArgs {
    /// The sse-proxy program [default: beside this one, then in PATH]
    #[arg(long, value_name = "FILE")]
    pub proxy_bin: Option<PathBuf>,
    /// The nginx program [default: in PATH, then /usr/sbin/nginx]
    #[arg(long, value_name = "FILE")]
    pub nginx_bin: Option<PathBuf>,
    /// The HAProxy program [default: in PATH, then /usr/sbin/haproxy]
    #[arg(long, value_name = "FILE")]
    pub haproxy_bin: Option<PathBuf>,
    /// Configuration of nginx by itself; only its listen and upstream addresses are replaced, and its
    /// workers with --workers
    #[arg(long, value_name = "FILE", default_value = "nginx/baseline.conf")]
    pub nginx_conf: PathBuf,
    /// Configuration of nginx in front of sse-proxy, likewise
    #[arg(long, value_name = "FILE", default_value = "nginx/front.conf")]
    pub front_conf: PathBuf,
    /// Configuration of HAProxy, likewise
    #[arg(long, value_name = "FILE", default_value = "haproxy/baseline.cfg")]
    pub haproxy_conf: PathBuf,
}

const KNEE_HELP: &str = "Examples:
  sse-loadgen knee --streams 1000
  sse-loadgen knee --targets direct,nginx,haproxy,sse-proxy --rounds 3 --json knee.json

Each rate is tried on every target in turn, each time on a target started anew, and then the next higher one on those that
have carried it: all streams held, every event delivered unharmed, and the median of the latency, from when an event was due,
below --limit. The clients and the origin take their share of the machine: where `direct` stops is where they do, and a
target that comes near it may be capable of more.";

/// Options of `knee`.
#[derive(Debug, Args)]
#[command(after_help = format!("{KNEE_HELP}\n\n{EXIT_CODES}"))]
pub struct KneeArgs {
    /// Number of streams that the events are spread over
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub streams: u64,
    /// How often the search is repeated on every target
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Targets: direct, nginx, sse-proxy, nginx+sse-proxy, haproxy
    #[arg(long, value_delimiter = ',', default_value = "direct,nginx,sse-proxy")]
    pub targets: Vec<String>,
    /// The first rate, events per second on all streams together
    #[arg(long, value_name = "EVENTS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub from: u64,
    /// Factor between one rate and the next
    #[arg(long, default_value_t = 1.5)]
    pub factor: f64,
    /// How often to halve the step between the last rate that was carried and the first that was not
    #[arg(long, default_value_t = 2)]
    pub refine: usize,
    /// The highest rate
    #[arg(long, value_name = "EVENTS", default_value_t = 200_000)]
    pub to: u64,
    /// The median latency at which a rate counts as not carried
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    pub limit: Duration,
    /// How long events flow at each rate
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Bytes of data per event
    #[arg(long, default_value_t = 100)]
    pub size: u64,
    /// Programs and processes.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn ramp_rate(text: &str) -> Result<u64, String> {
    match text {
        "max" => Ok(0),
        _ => text.parse().map_err(|_| "expected connections per second, or max".to_owned()),
    }
}
