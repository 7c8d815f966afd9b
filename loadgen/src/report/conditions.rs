//! The conditions of a result, without which it cannot be compared with another.

use std::path::Path;
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
    /// Commit of the checkout the command ran in, if it was one; with `-dirty` when files had been changed since, but for docs.
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
            commit: commit(Path::new(".")),
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
    pub fn has_protocol_of(&self, other: &Self) -> bool {
        (self.protocol, self.streams_per_connection) == (other.protocol, other.streams_per_connection)
    }

    /// The same, of loads that were added up: with what they spoke, if that was one thing.
    #[must_use]
    pub fn with_protocol_of<'a>(self, mut parts: impl Iterator<Item = &'a Self>) -> Self {
        let Some(first) = parts.next() else { return self };
        if !parts.all(|part| part.has_protocol_of(first)) {
            return self;
        }
        Self { protocol: first.protocol, streams_per_connection: first.streams_per_connection, ..self }
    }

    /// Protocol and streams per connection in words, where there is more to say than HTTP/1.1.
    #[must_use]
    pub fn client_protocol(&self) -> Option<String> {
        let shared = self.streams_per_connection.unwrap_or(1);
        match self.protocol? {
            Protocol::H1 => None,
            Protocol::Tls => Some("HTTP/1.1 over TLS".to_owned()),
            Protocol::H2 => Some(format!("HTTP/2 over TLS, {shared} streams per connection")),
            Protocol::H2c => Some(format!("HTTP/2 without TLS, {shared} streams per connection")),
        }
    }
}

/// The commit of the checkout that `directory` is in. `-dirty` after it says, as git does, that this is not the whole truth; what
/// is changed below `docs` does not matter, since that is where the benchmark itself writes.
fn commit(directory: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        Command::new("git").current_dir(directory).args(arguments).stderr(Stdio::null()).output().ok()
    };
    let output = git(&["rev-parse", "--short=12", "HEAD"])?;
    let commit = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let is_clean = git(&["diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"])?.status.success();
    Some(format!("{}{}", commit.trim(), if is_clean { "" } else { "-dirty" }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_told_beside_the_commit() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            let status = Command::new("git").current_dir(&directory).args(identity).args(arguments).status();
            status.is_ok_and(|status| status.success())
        };
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("writable");
        std::fs::create_dir(directory.path().join("docs")).expect("writable");
        write("code", "1");
        write("docs/page", "1");
        if !git(&["init", "-q"]) {
            return;
        }
        assert_eq!(commit(directory.path()), None);
        assert!(git(&["add", "."]) && git(&["commit", "-q", "-m", "x"]));
        write("docs/page", "2");
        let clean = commit(directory.path()).expect("a commit");
        assert_eq!(clean.len(), 12);
        write("code", "2");
        assert_eq!(commit(directory.path()), Some(format!("{clean}-dirty")));
    }
}
