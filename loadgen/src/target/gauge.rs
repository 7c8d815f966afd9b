//! A page that reports memory and CPU time of a process tree, for a comparison that runs in another container.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::cgroup::{self, CgroupMemory};
use super::error::TargetError;
use super::{probe, tree};

const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// What a gauge reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Proportional set size of all processes; `None` when it cannot be read.
    pub pss_bytes: Option<u64>,
    /// CPU time of all processes so far; `None` when it cannot be read.
    pub cpu_us: Option<u64>,
    /// Memory charged to their container; `None` when it cannot be read.
    pub cgroup: Option<CgroupMemory>,
    /// What could not be read and why, for people.
    pub unread: Option<String>,
}

/// The process to read, and how.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// The root of the process tree.
    pub pid: u32,
    /// Where the machine's `/sys/fs/cgroup` is.
    pub cgroup_root: PathBuf,
}

impl Reading {
    /// Reads the tree below `pid` and its cgroup.
    #[must_use]
    pub fn take(pid: u32, cgroup_root: &Path) -> Self {
        let (pss, cpu) = (tree::pss_bytes(pid), tree::cpu_us(pid));
        let cgroup = cgroup::read(pid, cgroup_root);
        let mut unread = Vec::new();
        unread.extend([pss.as_ref().err(), cpu.as_ref().err()].into_iter().flatten().map(describe));
        if cgroup.is_none() {
            unread.push(format!("no cgroup of process {pid} below {}", cgroup_root.display()));
        }
        let unread = (!unread.is_empty()).then(|| unread.join("; "));
        Self { pss_bytes: pss.ok(), cpu_us: cpu.ok(), cgroup, unread }
    }

    /// Two readings as one.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |left: Option<u64>, right: Option<u64>| left.zip(right).map(|(left, right)| left + right);
        Self {
            pss_bytes: sum(self.pss_bytes, other.pss_bytes),
            cpu_us: sum(self.cpu_us, other.cpu_us),
            cgroup: self.cgroup.zip(other.cgroup).map(|(left, right)| left.plus(&right)),
            unread: self.unread.or(other.unread),
        }
    }
}

/// Asks a gauge.
///
/// # Errors
/// When it does not answer, or with something else.
pub async fn ask(address: SocketAddr) -> Result<Reading, TargetError> {
    let refuse = |cause| TargetError::Gauge { address, cause };
    let (status, body) = probe::fetch(address, "/").await.map_err(refuse)?;
    if status != 200 {
        return Err(refuse(io::Error::other(format!("status {status}"))));
    }
    serde_json::from_slice(&body).map_err(|error| refuse(error.into()))
}

/// Serves a gauge until the future is dropped. `/` reads anew for each request; `/healthz` only answers.
///
/// # Errors
/// Never, as long as connections can be accepted.
pub async fn serve(listener: TcpListener, gauge: Gauge) -> io::Result<()> {
    loop {
        let (io, _) = listener.accept().await?;
        let gauge = gauge.clone();
        tokio::spawn(async move {
            // Whoever asks and leaves, or asks nonsense, harms only himself.
            let _ = timeout(REQUEST_DEADLINE, answer(io, &gauge)).await;
        });
    }
}

async fn answer(mut io: TcpStream, gauge: &Gauge) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if io.read_buf(&mut request).await? == 0 || request.len() > MAX_REQUEST_BYTES {
            return Ok(());
        }
    }
    let (status, kind, body) = match request.split(|byte| *byte == b' ').nth(1) {
        Some(b"/") => {
            let reading = Reading::take(gauge.pid, &gauge.cgroup_root);
            ("200 OK", "application/json", serde_json::to_string(&reading)? + "\n")
        }
        Some(b"/healthz") => ("200 OK", "text/plain", "ok\n".to_owned()),
        _ => ("404 Not Found", "text/plain", "there are / and /healthz\n".to_owned()),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    io.write_all((head + &body).as_bytes()).await?;
    io.shutdown().await
}

fn describe(error: &TargetError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gauge_tells_over_http_what_it_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let gauge = Gauge { pid: std::process::id(), cgroup_root: "/no/such/root".into() };
        let server = tokio::spawn(serve(listener, gauge));
        let reading = ask(address).await.expect("an answer");
        assert!(reading.pss_bytes.is_some_and(|pss| pss > 100_000), "{reading:?}");
        assert!(reading.cpu_us.is_some() && reading.cgroup.is_none(), "{reading:?}");
        assert!(reading.unread.is_some_and(|text| text.contains("/no/such/root")));
        assert_eq!(probe::get(address, "GET", "/healthz").await.expect("an answer"), 200);
        assert_eq!(probe::get(address, "GET", "/other").await.expect("an answer"), 404);
        server.abort();
    }

    #[test]
    fn a_process_that_is_not_there_is_told() {
        let reading = Reading::take(u32::MAX, Path::new("/no/such/root"));
        assert_eq!((reading.pss_bytes, reading.cpu_us), (None, None));
        assert!(reading.unread.is_some_and(|text| text.contains("processes (/proc)")));
    }
}
