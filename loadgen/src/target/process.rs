//! A child process: logs to a file, and ends when this process does.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::error::TargetError;
use super::tree;

const READY_DEADLINE: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(50);
const END_DEADLINE: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 15;

/// A program that runs; it and its descendants end when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    pid: u32,
    log: PathBuf,
    out: PathBuf,
}

impl Running {
    /// Starts `program` so that it ends with this process, in a process group of its own (Ctrl-C is for the harness alone).
    /// With `gently` it is asked to end, because it has children to take care of.
    pub(super) fn start(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        directory: &Path,
        sigterm: bool,
    ) -> Result<Self, TargetError> {
        let refuse = |source| TargetError::Start { program: name.to_owned(), source };
        let own = std::env::current_exe().map_err(refuse)?;
        let log = directory.join(format!("{name}.log"));
        let log_file = File::create(&log).map_err(refuse)?;
        // A file, not a pipe: a full pipe that is not read would stop the program.
        let out = directory.join(format!("{name}.out"));
        let out_file = File::create(&out).map_err(refuse)?;
        let mut command = Command::new(own);
        command.arg("exec-with-parent");
        if sigterm {
            command.arg("--sigterm");
        }
        command.arg("--").arg(program).args(arguments).stdin(Stdio::null()).stdout(out_file).stderr(log_file);
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(refuse)?;
        let pid = child.id().ok_or_else(|| refuse(std::io::ErrorKind::NotFound.into()))?;
        Ok(Self { name: name.to_owned(), child, pid, log, out })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written to its standard output so far.
    pub(super) fn output(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Whether it is still there.
    ///
    /// # Errors
    /// When it is not, with the end of its log.
    pub fn check(&mut self) -> Result<(), TargetError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(format!("has ended ({status})"))),
            Err(_) => Err(self.failed("has ended".to_owned())),
        }
    }

    /// Waits until `is_ready` says so.
    pub(super) async fn ready(&mut self, is_ready: impl AsyncFn(&Self) -> bool) -> Result<(), TargetError> {
        let start = Instant::now();
        while !is_ready(self).await {
            self.check()?;
            if start.elapsed() > READY_DEADLINE {
                return Err(self.failed("did not become ready".to_owned()));
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Ends it and waits for that.
    pub async fn stop(mut self) {
        let members = tree::pids(self.pid).unwrap_or_default();
        signal(&[self.pid], Signal::TERM);
        if timeout(END_DEADLINE, self.child.wait()).await.is_err() {
            signal(&members, Signal::KILL);
            let _ = self.child.wait().await;
        }
    }

    /// Tells what happened, with the end of the log.
    fn failed(&self, what: String) -> TargetError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        TargetError::Failed { program: self.name.clone(), what, log: tail.join("\n") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not yet waited for: then the id is still its own, and the descendants are known only now.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&tree::pids(self.pid).unwrap_or_default(), Signal::KILL);
        }
    }
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        let _ = kill_process(pid, signal);
    }
}
