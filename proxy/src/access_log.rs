//! One line of JSON for each stream, written at its end, on a thread of its own: a slow disk delays no stream.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::config;
use crate::driver::{Ended, Observer};

/// Lines that may wait for the disk; at about 300 bytes each this is a few megabytes.
const QUEUE_LINES: usize = 16 * 1024;

/// The log's sending end. Lines that find no room, or cannot be written, are counted as lost.
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    lost: Counter,
}

enum Message {
    Line(Vec<u8>),
    /// Answered, by dropping it, once everything before it is written.
    Flush(SyncSender<()>),
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
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(to: &config::AccessLog, lost: Counter) -> io::Result<Self> {
        let writer: Box<dyn Write + Send> = match to {
            config::AccessLog::Off => return Ok(Self { queue: None, lost }),
            config::AccessLog::Stdout => Box::new(io::stdout()),
            config::AccessLog::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, queue) = sync_channel(QUEUE_LINES);
        let counted = lost.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&queue, BufWriter::new(writer), &counted))?;
        Ok(Self { queue: Some(sender), lost })
    }

    /// Waits until every line handed in so far is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        let Some(queue) = &self.queue else { return };
        let until = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        // A queue that stays full has a reader that is stuck: it must not hold the process.
        while let Err(TrySendError::Full(back)) = queue.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            message = back;
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Writes until the sender is gone, in batches as large as what has queued up.
fn write_lines(queue: &Receiver<Message>, mut writer: BufWriter<Box<dyn Write + Send>>, lost: &Counter) {
    while let Ok(first) = queue.recv() {
        let (mut lines, mut failed, mut waiting) = (0, None, Vec::new());
        for message in std::iter::once(first).chain(queue.try_iter().take(QUEUE_LINES)) {
            match message {
                Message::Line(line) => {
                    lines += 1;
                    failed = failed.or(writer.write_all(&line).err());
                }
                Message::Flush(done) => waiting.push(done),
            }
        }
        if let Some(error) = failed.or(writer.flush().err()) {
            lost.inc_by(lines);
            log::error!("side=internal: {lines} access log lines were lost: {error}");
        }
        drop(waiting);
    }
}

impl Observer for AccessLog {
    fn ended(&self, ended: &Ended<'_>) {
        let Some(queue) = &self.queue else { return };
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            route: ended.route,
            client: ended.info.client().map(|address| address.to_string()),
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
        if queue.try_send(Message::Line(json)).is_err() {
            self.lost.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full queue whose reader is stuck once kept the process from ending: handing in the flush itself waited.
    #[test]
    fn flush_gives_up_on_a_queue_that_stays_full() {
        let (sender, _stuck) = sync_channel(1);
        sender.send(Message::Line(Vec::new())).expect("room for one");
        let log = AccessLog { queue: Some(sender), lost: Counter::default() };
        let (done, flushed) = sync_channel(1);
        std::thread::spawn(move || {
            log.flush(Duration::from_millis(20));
            let _ = done.send(());
        });
        flushed.recv_timeout(Duration::from_secs(20)).expect("flush returns though nothing is taken from the queue");
    }
}
