//! The [`log::Log`] of the binary: filters, sanitizes and rate-limits records, and queues their lines.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, Metadata, Record};
use prometheus_client::metrics::counter::Counter;

use super::limiter::{Cause, Limiter};
use super::line_file::LineFile;
use super::line_queue::{Limits, LineQueue, Sink};
use super::record::{cause_fields, clean};

/// Limits on lines queued for a slow reader of standard error.
const LIMITS: Limits = Limits { lines: 4096, bytes: 1024 * 1024 };

/// A warning or an error of one cause is logged once in this interval, with the count of the others.
const INTERVAL: Duration = Duration::from_secs(10);

/// The process's log. Clones share one queue.
#[derive(Clone)]
pub struct ProcessLog {
    queue: LineQueue,
    dropped: Counter,
}

impl ProcessLog {
    /// Logs records of this level and above on standard error from here on, panics included.
    ///
    /// # Errors
    /// When standard error is closed, the thread cannot be started, or a logger is already set.
    pub fn start(level: LevelFilter) -> io::Result<Self> {
        let dropped = Counter::default();
        let limiter = Arc::new(Mutex::new(Limiter::new(INTERVAL)));
        let sink = Stderr {
            file: LineFile::new(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            limiter: limiter.clone(),
            dropped: dropped.clone(),
            unreported: 0,
        };
        let queue = LineQueue::start("log", LIMITS, dropped.clone(), sink)?;
        let logger = Logger { level, limiter, queue: queue.clone() };
        log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
        log::set_max_level(level);
        // The default hook writes to standard error directly, and blocks on it.
        std::panic::set_hook(Box::new(report_panic));
        Ok(Self { queue, dropped })
    }

    /// The counter of lines that were dropped because standard error was not read in time.
    pub fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    /// Prints a sentence on standard error, in order with the log.
    pub fn print(&self, sentence: &str) {
        self.queue.add(format!("{sentence}\n").as_bytes());
    }

    /// Waits until everything logged so far is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        self.queue.flush(limit);
    }
}

/// What [`log`]'s macros call.
struct Logger {
    level: LevelFilter,
    limiter: Arc<Mutex<Limiter>>,
    queue: LineQueue,
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= level_of(metadata.target(), self.level)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = clean(&record.args().to_string());
        let line = line(record.level(), record.target(), &text);
        // Peers can cause warnings and errors, which are therefore limited. Other levels come from the process itself,
        // or were enabled for debugging.
        if record.level() > Level::Warn {
            return self.queue.add(format!("{line}\n").as_bytes());
        }
        let cause = Cause {
            file: record.file_static().or(record.module_path_static()).unwrap_or_default(),
            line: record.line().unwrap_or_default(),
            fields: cause_fields(&text),
        };
        let admitted = lock(&self.limiter).admit(cause, Instant::now(), line);
        if let Some(admitted) = admitted {
            self.queue.add(&with_count(admitted));
        }
    }

    fn flush(&self) {}
}

/// Pingora's own messages at info repeat ours, and its proxy logs every client that closes its connection as an error.
/// Failed requests are logged by this crate, with the side that failed.
fn level_of(target: &str, level: LevelFilter) -> LevelFilter {
    match target {
        target if target.starts_with("pingora_proxy") && level < LevelFilter::Debug => LevelFilter::Off,
        target if target.starts_with("pingora") => level.min(LevelFilter::Warn),
        _ => level,
    }
}

fn line(level: Level, target: &str, text: &str) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    format!("[{time} {level:<5} {target}] {text}")
}

fn with_count((line, suppressed): (String, u64)) -> Vec<u8> {
    let count = if suppressed == 0 { String::new() } else { format!(" suppressed={suppressed}") };
    format!("{line}{count}\n").into_bytes()
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    log::error!("panic: side=internal location={location} thread={name}: {message}{backtrace}");
}

/// Standard error, on the queue's thread.
struct Stderr {
    file: LineFile,
    limiter: Arc<Mutex<Limiter>>,
    dropped: Counter,
    /// Lines dropped since the last report.
    unreported: u64,
}

impl Sink for Stderr {
    fn write(&mut self, batch: &[u8], dropped: u64) {
        self.unreported += dropped;
        self.write_lines(batch);
        self.idle();
    }

    fn idle_wait(&self) -> Option<Duration> {
        let next = lock(&self.limiter).next();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    fn idle(&mut self) {
        let ended = lock(&self.limiter).ended(Instant::now());
        for line in ended {
            self.write_lines(&with_count(line));
        }
    }
}

impl Stderr {
    fn write_lines(&mut self, lines: &[u8]) {
        if let Err(lost) = self.file.write(lines) {
            // The log itself has failed: the next report counts these lines.
            self.dropped.inc_by(lost.lines);
            self.unreported += lost.lines;
            return;
        }
        if self.unreported > 0 {
            let text = format!("log lines dropped: side=internal count={}", self.unreported);
            let report = format!("{}\n", line(Level::Warn, module_path!(), &text));
            if self.file.write(report.as_bytes()).is_ok() {
                self.unreported = 0;
            }
        }
    }
}

fn lock(limiter: &Mutex<Limiter>) -> MutexGuard<'_, Limiter> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pingoras_log_levels_are_reduced() {
        use LevelFilter as Filter;
        for (target, level, wanted) in [
            ("sse_proxy::server", Filter::Info, Filter::Info),
            ("pingora_core::services::listening", Filter::Info, Filter::Warn),
            ("pingora_core::services::listening", Filter::Error, Filter::Error),
            ("pingora_proxy", Filter::Info, Filter::Off),
            ("pingora_proxy", Filter::Debug, Filter::Warn),
            ("h2::proto", Filter::Debug, Filter::Debug),
        ] {
            assert_eq!(level_of(target, level), wanted, "{target} at {level}");
        }
    }
}
