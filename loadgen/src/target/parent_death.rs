//! Ends a process when its parent ends, so that a killed comparison leaves nothing running.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Has the kernel end this process when its parent ends.
///
/// # Errors
/// When the kernel refuses, or the parent has already ended.
pub fn end_with_parent(sigterm: bool) -> io::Result<()> {
    let parent = getppid();
    let signal = if sigterm { Signal::TERM } else { Signal::KILL };
    set_parent_process_death_signal(Some(signal))?;
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// Becomes another program with that tie; returns only when it cannot.
pub fn run(program: &[OsString], sigterm: bool) -> io::Error {
    if let Err(error) = end_with_parent(sigterm) {
        return error;
    }
    match program.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::ErrorKind::InvalidInput.into(),
    }
}
