//! Under what conditions a result came about: without them it cannot be compared with another.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::clock::unix_us;
use crate::limits;
use crate::protocol::Protocol;

/// The conditions of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Version of this program.
    pub sse_loadgen: String,
    /// The command line.
    pub command: String,
    /// Commit of the checkout the command ran in, if it was one.
    pub commit: Option<String>,
    /// Operating system and kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub machine: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Model of the processor, as the kernel names it.
    #[serde(default)]
    pub cpu: Option<String>,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Limit on open files.
    pub descriptor_limit: u64,
    /// Ephemeral ports per source and destination.
    pub ephemeral_ports: u64,
    /// When it began, Unix µs.
    pub started_us: u64,
    /// What clients and target spoke, where that was one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How many streams shared a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams_per_connection: Option<u64>,
}

impl Conditions {
    /// Reads them.
    #[must_use]
    pub fn read(descriptor_limit: u64) -> Self {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            sse_loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            commit: commit(),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            machine: text(uname.machine()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu_model(),
            memory_bytes: memory_bytes(),
            descriptor_limit,
            ephemeral_ports: limits::ephemeral_ports(),
            started_us: unix_us(),
            protocol: None,
            streams_per_connection: None,
        }
    }

    /// The same, of a load that speaks `protocol`.
    #[must_use]
    pub fn of_load(self, protocol: Protocol, streams_per_connection: u64) -> Self {
        Self { protocol: Some(protocol), streams_per_connection: Some(streams_per_connection), ..self }
    }

    /// Whether both are of the same protocol, and share connections alike.
    #[must_use]
    pub fn speaks_like(&self, other: &Self) -> bool {
        (self.protocol, self.streams_per_connection) == (other.protocol, other.streams_per_connection)
    }

    /// The same, of loads that were added up: with what they spoke, if that was one thing.
    #[must_use]
    pub fn spoken_in<'a>(self, mut parts: impl Iterator<Item = &'a Self>) -> Self {
        let Some(first) = parts.next() else { return self };
        if !parts.all(|part| part.speaks_like(first)) {
            return self;
        }
        Self { protocol: first.protocol, streams_per_connection: first.streams_per_connection, ..self }
    }

    /// Protocol and streams per connection in words, where there is more to say than HTTP/1.1.
    #[must_use]
    pub fn spoken(&self) -> Option<String> {
        let shared = self.streams_per_connection.unwrap_or(1);
        match self.protocol? {
            Protocol::H1 => None,
            Protocol::Tls => Some("HTTP/1.1 over TLS".to_owned()),
            Protocol::H2 => Some(format!("HTTP/2 over TLS, {shared} streams per connection")),
            Protocol::H2c => Some(format!("HTTP/2 without TLS, {shared} streams per connection")),
        }
    }
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, model) = info.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(model.trim().to_owned())
}
