//! Under what conditions a result came about: without them it cannot be compared with another.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::clock::unix_us;
use crate::limits;

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
