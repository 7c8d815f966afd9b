//! Essential threads: a panic in one ends the process, so that a supervisor restarts it.
//!
//! A reactor that panics loses its streams and its listeners, while `/healthz` would still report `ok`. Restarting the
//! thread would not restore the streams, and would continue with inconsistent state.

use std::io;
use std::sync::OnceLock;
use std::thread;

/// `EX_SOFTWARE` of sysexits: a defect of the program.
pub const EXIT_DEFECT: i32 = 70;

static FLUSH: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Sets a function to call before the process exits with [`EXIT_DEFECT`] after a panic. Without it, as in programs that
/// embed the crate, the process aborts. Only the first call has an effect. `flush` must return within a bounded time.
pub fn flush_before_exit(flush: impl Fn() + Send + Sync + 'static) {
    let _ = FLUSH.set(Box::new(flush));
}

/// Starts a thread whose panic ends the process.
///
/// # Errors
/// When the system has no thread left.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let essential = Essential::new(name);
    let run = move || {
        let _essential = essential;
        body();
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// A guard for an essential thread or task: if a panic drops it, the process ends.
pub(crate) struct Essential(String);

impl Essential {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl Drop for Essential {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        log::error!("process exits: side=internal thread={}: an essential thread panicked", self.0);
        match FLUSH.get() {
            Some(flush) => {
                flush();
                std::process::exit(EXIT_DEFECT);
            }
            None => std::process::abort(),
        }
    }
}
