//! One line of JSON for each stream, written at its end on a separate thread, so that a slow disk delays no stream.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use rustix::fs::{Access, access};
use serde::Serialize;

use crate::config::{self, Problem};
use crate::driver::{Ended, Observer};
use crate::logging::{Limits, LineFile, LineQueue, Sink};

/// Limits on queued lines. A line has about 300 bytes, and a few kilobytes with the longest path that is kept.
const LIMITS: Limits = Limits { lines: 16 * 1024, bytes: 8 * 1024 * 1024 };

/// The access log. Lines that exceed the queue, or cannot be written, are counted as lost.
pub struct AccessLog(Option<LineQueue>);

/// One line. The field names are a stable contract, described in `docs/operations.md`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    route: &'a str,
    client: Option<String>,
    method: &'a str,
    path: &'a str,
    upstream: Option<String>,
    end: &'static str,
    side: &'static str,
    clean: bool,
    first_byte_ms: u128,
    duration_ms: u128,
    events: u64,
    bytes: u64,
    heartbeats: u64,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(to: &config::AccessLog, lost: Counter) -> io::Result<Self> {
        let file = match to {
            config::AccessLog::Off => return Ok(Self(None)),
            config::AccessLog::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            config::AccessLog::File(path) => OpenOptions::new().create(true).append(true).open(path)?,
        };
        let sink = Lines { file: LineFile::new(file), lost: lost.clone() };
        LineQueue::start("access-log", LIMITS, lost, sink).map(|queue| Self(Some(queue)))
    }

    /// Checks, without creating it, that the file could be opened.
    ///
    /// # Errors
    /// When it could not.
    pub fn check(to: &config::AccessLog) -> Result<(), Problem> {
        let config::AccessLog::File(path) = to else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (path, shown) = (path.as_path(), folder.display());
        let (what, remedy) = if path.is_dir() {
            ("which is a folder".to_owned(), "name a file in it".to_owned())
        } else if let Ok(()) = access(path, Access::EXISTS) {
            let Err(error) = access(path, Access::WRITE_OK) else { return Ok(()) };
            (format!("which cannot be written to: {error}"), "change its permissions, or name another file".to_owned())
        } else if !folder.is_dir() {
            (format!("and there is no folder `{shown}`"), format!("create it: `mkdir -p {shown}`"))
        } else {
            let Err(error) = access(folder, Access::WRITE_OK | Access::EXEC_OK) else { return Ok(()) };
            let what = format!("and no file can be created in `{shown}`: {error}");
            (what, "change the folder's permissions, or name another one".to_owned())
        };
        Err(Problem::new(&["access_log"], format!("is `{}`, {what}", path.display()), remedy))
    }

    /// Waits until every line logged so far is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        if let Some(queue) = &self.0 {
            queue.flush(limit);
        }
    }
}

/// An address, without the port if only a proxy in front knows it.
fn shown(address: SocketAddr) -> String {
    match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    }
}

/// The file, on the queue's thread.
struct Lines {
    file: LineFile,
    lost: Counter,
}

impl Sink for Lines {
    fn write(&mut self, batch: &[u8], dropped: u64) {
        if dropped > 0 {
            log::error!("access log lines lost: side=internal reason=queue_full lines={dropped}");
        }
        if let Err(lost) = self.file.write(batch) {
            self.lost.inc_by(lost.lines);
            log::error!(
                "access log lines lost: side=internal reason=write_failed lines={}: {}",
                lost.lines,
                lost.error
            );
        }
    }
}

impl Observer for AccessLog {
    fn ended(&self, ended: &Ended<'_>) {
        let Some(queue) = &self.0 else { return };
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            route: ended.route,
            client: ended.info.client().map(shown),
            method: ended.info.method(),
            path: ended.info.path(),
            upstream: ended.info.upstream().map(|address| address.to_string()),
            end: ended.reason.as_str(),
            side: ended.reason.side().as_str(),
            clean: ended.clean,
            first_byte_ms: ended.info.first_byte().as_millis(),
            duration_ms: ended.duration.as_millis(),
            events: ended.counts.events,
            bytes: ended.counts.bytes,
            heartbeats: ended.counts.heartbeats,
        };
        let Ok(mut json) = serde_json::to_vec(&line) else { return };
        json.push(b'\n');
        queue.add(&json);
    }
}
