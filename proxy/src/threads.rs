//! Threads that the process cannot do without: a panic in one ends the process, for a supervisor to start it anew.
//!
//! A reactor that dies takes its streams and its listeners along, while the health page would go on saying `ok`. Restarting
//! the thread would not bring the streams back, and would run on with whatever state the panic has left.

use std::io;
use std::sync::OnceLock;
use std::thread;

/// `EX_SOFTWARE` of sysexits: a defect of the program.
pub const EXIT_DEFECT: i32 = 70;

static FLUSH: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Calls `flush` before the process ends over a panic, and has it exit with [`EXIT_DEFECT`]. Without this, as in programs
/// that embed the crate, it aborts. The first call counts. `flush` has to return within a bounded time.
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

/// Held by a thread or a task without which the process is of no use. Dropped by a panic, it ends the process.
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
        log::error!("process ends: side=internal thread={}: it cannot go on after a panic", self.0);
        match FLUSH.get() {
            Some(flush) => {
                flush();
                std::process::exit(EXIT_DEFECT);
            }
            None => std::process::abort(),
        }
    }
}
