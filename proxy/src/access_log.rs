//! One line of JSON for each stream, and for each page if that is asked for, written at its end on a separate thread, so that a slow disk delays no stream.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use rustix::fs::{Access, access};
use serde::Serialize;

use crate::config::{self, LoggedRequests, Problem};
use crate::driver::{Ended, Observer};
use crate::headers;
use crate::logging::{Limits, LineFile, LineQueue, Mask, Sink};
use crate::routing::Answered;

/// Limits on queued lines. A line has about 300 bytes, and a few kilobytes with the longest path that is kept.
const LIMITS: Limits = Limits { lines: 16 * 1024, bytes: 8 * 1024 * 1024 };

/// The access log. Lines that exceed the queue, or cannot be written, are counted as lost.
pub struct AccessLog {
    is_on: AtomicBool,
    /// Started with the first file.
    queue: OnceLock<LineQueue>,
    file: Arc<Mutex<LineFile>>,
    /// The file that takes the place of the other as soon as that is not being written to.
    next: Arc<Mutex<Option<File>>>,
    rules: ArcSwap<Rules>,
    lost: Counter,
}

/// What a configuration says about the log, with its destination opened.
pub struct Opened {
    file: Option<File>,
    rules: Rules,
}

/// What has a line, and what is hidden in it.
struct Rules {
    mask: Arc<Mask>,
    /// The part of the pages that have a line; `None`: pages have none.
    pages: Option<f64>,
}

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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
}

/// The line of a page.
#[derive(Serialize)]
struct PageLine<'a> {
    time: String,
    route: &'a str,
    client: Option<String>,
    method: &'a str,
    path: &'a str,
    status: u16,
    duration_ms: u128,
    bytes: u64,
}

impl Rules {
    fn new(config: &config::AccessLogConfig) -> Self {
        let pages = (config.requests == LoggedRequests::All).then_some(config.sample.0 / 100.0);
        Self { mask: Arc::new(Mask::new(&config.mask)), pages }
    }

    /// Whether a page has a line. Failures of a server always have one.
    fn logs_page(&self, status: u16, random: f64) -> bool {
        self.pages.is_some_and(|part| status >= 500 || random < part)
    }
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(config: &config::AccessLogConfig, lost: Counter) -> io::Result<Self> {
        let opened = Opened::open(config)?;
        let nowhere = LineFile::new(File::open("/dev/null")?);
        let log = Self {
            is_on: AtomicBool::new(false),
            queue: OnceLock::new(),
            file: Arc::new(Mutex::new(nowhere)),
            next: Arc::default(),
            rules: ArcSwap::from_pointee(Rules::new(config)),
            lost,
        };
        log.replace(opened)?;
        Ok(log)
    }

    /// Writes to another destination from now on, without waiting for a write to the present one.
    ///
    /// # Errors
    /// When the log was off so far, and its thread cannot be started.
    pub fn replace(&self, to: Opened) -> io::Result<()> {
        let Some(file) = to.file else {
            self.is_on.store(false, Ordering::Relaxed);
            self.rules.store(Arc::new(to.rules));
            return Ok(());
        };
        if self.queue.get().is_none() {
            let sink = Lines { file: self.file.clone(), next: self.next.clone(), lost: self.lost.clone() };
            let queue = LineQueue::start("access-log", LIMITS, self.lost.clone(), sink)?;
            let _ = self.queue.set(queue);
        }
        *lock(&self.next) = Some(file);
        if let Ok(mut file) = self.file.try_lock() {
            take_next(&mut file, &self.next);
        }
        self.rules.store(Arc::new(to.rules));
        self.is_on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What is hidden in targets.
    pub fn mask(&self) -> Arc<Mask> {
        self.rules.load().mask.clone()
    }

    fn queue(&self) -> Option<&LineQueue> {
        self.queue.get().filter(|_| self.is_on.load(Ordering::Relaxed))
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

    /// Logs a page, if pages are logged.
    pub fn page(&self, page: &Answered<'_>) {
        let rules = self.rules.load();
        let Some(queue) = self.queue().filter(|_| rules.logs_page(page.status, fastrand::f64())) else { return };
        let line = PageLine {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            route: page.route,
            client: page.client.map(headers::shown_address),
            method: page.method,
            path: &rules.mask.target(page.target),
            status: page.status,
            duration_ms: page.duration.as_millis(),
            bytes: page.bytes,
        };
        add(queue, &line);
    }

    /// Waits until every line logged so far is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        if let Some(queue) = self.queue.get() {
            queue.flush(limit);
        }
    }
}

impl Opened {
    /// Opens the destination of a configuration.
    ///
    /// # Errors
    /// When a file cannot be opened for appending.
    pub fn open(config: &config::AccessLogConfig) -> io::Result<Self> {
        let file = match &config.to {
            config::AccessLog::Off => None,
            config::AccessLog::Stdout => Some(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            config::AccessLog::File(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
        };
        Ok(Self { file, rules: Rules::new(config) })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_next(file: &mut LineFile, next: &Mutex<Option<File>>) {
    if let Some(next) = lock(next).take() {
        *file = LineFile::new(next);
    }
}

/// The file, on the queue's thread.
struct Lines {
    file: Arc<Mutex<LineFile>>,
    next: Arc<Mutex<Option<File>>>,
    lost: Counter,
}

impl Sink for Lines {
    fn write(&mut self, batch: &[u8], dropped: u64) {
        if dropped > 0 {
            log::error!("access log lines lost: side=internal reason=queue_full lines={dropped}");
        }
        let mut file = lock(&self.file);
        take_next(&mut file, &self.next);
        let written = file.write(batch);
        // It may have been replaced meanwhile: the former file is closed without waiting for the next line.
        take_next(&mut file, &self.next);
        drop(file);
        if let Err(lost) = written {
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
        let Some(queue) = self.queue() else { return };
        let rules = self.rules.load();
        let path = rules.mask.target(ended.info.path());
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            route: ended.route,
            client: ended.info.client().map(headers::shown_address),
            method: ended.info.method(),
            path: &path,
            upstream: ended.info.upstream().map(|address| address.to_string()),
            end: ended.reason.as_str(),
            side: ended.reason.side().as_str(),
            clean: ended.clean,
            first_byte_ms: ended.info.first_byte().as_millis(),
            duration_ms: ended.duration.as_millis(),
            events: ended.counts.events,
            bytes: ended.counts.bytes,
            heartbeats: ended.counts.heartbeats,
            labels: ended.info.labels().collect(),
        };
        add(queue, &line);
    }
}

fn add(queue: &LineQueue, line: &impl Serialize) {
    let Ok(mut json) = serde_json::to_vec(line) else { return };
    json.push(b'\n');
    queue.add(&json);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_logged_if_asked_for_and_sampled() {
        let rules = |pages| Rules { mask: Arc::default(), pages };
        for (pages, status, random, wanted) in [
            (None, 200, 0.0, false),
            (None, 502, 0.0, false),
            (Some(1.0), 200, 0.999, true),
            (Some(0.1), 200, 0.09, true),
            (Some(0.1), 200, 0.1, false),
            (Some(0.1), 502, 0.999, true),
            (Some(0.0), 404, 0.0, false),
        ] {
            assert_eq!(rules(pages).logs_page(status, random), wanted, "{pages:?} {status} {random}");
        }
    }
}
