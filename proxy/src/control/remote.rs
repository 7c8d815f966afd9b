//! `sse-proxy reload`: asks a running process to reload, and returns what it answers.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use super::pid_file::{PidFile, PidFileError};
use crate::config::{ConfigError, ConfigFile};

/// How long connecting to the admin listener may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a reload may take: names of listeners are resolved, and files are read.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Limit on the response, in bytes.
const MAX_RESPONSE_BYTES: u64 = 1 << 20;

/// How the text of a success begins.
pub const RELOADED: &str = "reloaded";

/// How to find the process.
#[derive(Clone, Debug)]
pub enum Target {
    /// By the address or the URL of its admin listener.
    Admin(String),
    /// By its configuration: `admin`, or else `pid_file`.
    Config(PathBuf),
    /// By its pid file.
    PidFile(PathBuf),
}

/// The process has not reloaded.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The file that should say where the process is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file names neither.
    #[error("{}: has neither admin nor pid_file; add one of them, or use --admin or --pid-file", .0.display())]
    NoTarget(PathBuf),
    /// The pid file does not lead to the process.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The signal cannot be sent.
    #[error("cannot send SIGHUP to process {pid}: {source}; run this as its user, or use --admin")]
    Signal {
        /// The process.
        pid: u32,
        /// The system's error.
        source: io::Error,
    },
    /// The address is not one.
    #[error("`{0}` is not the address of an admin listener; write host:port or http://host:port")]
    Address(String),
    /// No answer.
    #[error("admin listener {address}: {source}; check that sse-proxy runs and that this is its admin.address")]
    Unreachable {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// What the process answers.
    #[error("{0}")]
    Refused(String),
}

/// Asks the process to reload, and waits for the outcome, which only the admin listener gives.
///
/// # Errors
/// When the process cannot be found, or its reload has failed.
pub fn reload(target: &Target) -> Result<String, RemoteError> {
    match target {
        Target::Admin(address) => ask(address),
        Target::PidFile(path) => signal(path),
        Target::Config(path) => {
            let config = ConfigFile::load(path)?.config;
            match (config.admin, config.pid_file) {
                (Some(admin), _) => ask(&admin.address),
                (None, Some(pid_file)) => signal(&pid_file),
                (None, None) => Err(RemoteError::NoTarget(path.clone())),
            }
        }
    }
}

fn signal(path: &Path) -> Result<String, RemoteError> {
    let pid = PidFile::find(path)?;
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| PidFileError::Stale { path: path.to_owned(), pid })?;
    kill_process(process, Signal::HUP).map_err(|error| RemoteError::Signal { pid, source: error.into() })?;
    Ok(format!("SIGHUP sent to process {pid}: its log has the outcome, which --admin would show here\n"))
}

fn ask(address: &str) -> Result<String, RemoteError> {
    let host = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    if host.contains('/') || !host.contains(':') {
        return Err(RemoteError::Address(address.to_owned()));
    }
    let response = request(host).map_err(|source| RemoteError::Unreachable { address: host.to_owned(), source })?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    match head.split(' ').nth(1) {
        Some("200") if body.starts_with(RELOADED) => Ok(body.to_owned()),
        Some("403" | "422" | "500" | "503") if !body.trim().is_empty() => {
            Err(RemoteError::Refused(body.trim().to_owned()))
        }
        _ => Err(RemoteError::Refused(format!("admin listener {host}: unexpected response {head:?}"))),
    }
}

fn request(host: &str) -> io::Result<String> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let address = host.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let mut socket = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.set_write_timeout(Some(ANSWER_LIMIT))?;
    write!(socket, "POST /reload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    socket.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
