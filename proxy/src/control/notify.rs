//! What systemd is told (`Type=notify`, see sd_notify(3)): ready, reloading, stopping, a line of status, and the watchdog.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::threads;

/// How often the line of status is sent, where no watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Reports to the service manager; clones share everything. Does nothing where none has started the process (`NOTIFY_SOCKET`).
#[derive(Clone)]
pub struct Notifier {
    is_on: bool,
    /// Appended to the status.
    note: Arc<Mutex<String>>,
}

impl Notifier {
    /// For the manager that the environment names, if it names one.
    pub(super) fn of_environment() -> Self {
        Self { is_on: std::env::var_os("NOTIFY_SOCKET").is_some(), note: Arc::default() }
    }

    /// The process serves, or has ended a reload.
    pub(super) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// A reload begins.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => log::error!("service manager not notified: side=internal: {error}"),
        }
    }

    /// The drain begins.
    pub(super) fn stopping(&self) {
        self.note("draining");
        self.send(&[NotifyState::Stopping]);
    }

    /// Adds a note to each line of status; an empty one removes it.
    pub(super) fn note(&self, note: &str) {
        note.clone_into(&mut self.note.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts the thread that sends the status, and feeds the watchdog while `is_alive`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        &self,
        streams: impl Fn() -> usize + Send + 'static,
        is_alive: impl Fn(Duration) -> bool + Send + 'static,
    ) -> io::Result<()> {
        if !self.is_on {
            return Ok(());
        }
        let watchdog = sd_notify::watchdog_enabled();
        let this = self.clone();
        let interval = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 2).min(STATUS_INTERVAL));
        threads::spawn("systemd", move || {
            loop {
                let status = this.status(streams());
                this.send(&[NotifyState::Status(&status)]);
                if watchdog.is_some() {
                    match is_alive(interval) {
                        true => this.send(&[NotifyState::Watchdog]),
                        false => log::error!("watchdog not notified: side=internal: a reactor thread does not answer"),
                    }
                }
                std::thread::sleep(interval);
            }
        })
    }

    fn status(&self, streams: usize) -> String {
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams") };
        if note.is_empty() { streams } else { format!("{streams}; {}", note.replace('\n', " ")) }
    }

    fn send(&self, state: &[NotifyState<'_>]) {
        if self.is_on
            && let Err(error) = sd_notify::notify(state)
        {
            log::error!("service manager not notified: side=internal: {error}");
        }
    }
}
