//! `sse-proxy reload`: asks a running process to reload, and returns what it answers.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
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
    /// By the address or the URL of its admin listener, with the file of its token.
    Admin(String, Option<PathBuf>),
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
    /// The token cannot be read.
    #[error("token file {}: {source}; name the file at admin.token_file, and run this as a user who may read it", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The address is not one.
    #[error("`{0}` is not the address of an admin listener; write host:port, http://host:port or unix:/path")]
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
        Target::Admin(address, token_file) => ask(address, token_file.as_deref()),
        Target::PidFile(path) => signal(path),
        Target::Config(path) => {
            let config = ConfigFile::load(path)?.config;
            match (config.admin, config.pid_file) {
                (Some(admin), _) => ask(&admin.address, admin.token_file.as_deref()),
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

fn ask(address: &str, token_file: Option<&Path>) -> Result<String, RemoteError> {
    let token = token_file.map(|path| {
        let failed = |source| RemoteError::Token { path: path.to_owned(), source };
        std::fs::read_to_string(path).map_err(failed)
    });
    let token = token.transpose()?;
    let authorization = token.map(|token| format!("Authorization: Bearer {}\r\n", token.trim())).unwrap_or_default();
    let unreachable = |source| RemoteError::Unreachable { address: address.to_owned(), source };
    let response = match address.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path).and_then(|socket| {
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            exchange(socket, "localhost", &authorization)
        }),
        None => {
            let host = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
            if host.contains('/') || !host.contains(':') {
                return Err(RemoteError::Address(address.to_owned()));
            }
            connect(host).and_then(|socket| exchange(socket, host, &authorization))
        }
    };
    let response = response.map_err(unreachable)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    match head.split(' ').nth(1) {
        Some("200") if body.starts_with(RELOADED) => Ok(body.to_owned()),
        Some("401" | "403" | "422" | "500" | "503") if !body.trim().is_empty() => {
            Err(RemoteError::Refused(body.trim().to_owned()))
        }
        _ => Err(RemoteError::Refused(format!("admin listener {address}: unexpected response {head:?}"))),
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let address = host.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let socket = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(socket)
}

fn exchange(mut socket: impl Read + Write, host: &str, fields: &str) -> io::Result<String> {
    let request =
        format!("POST /reload HTTP/1.1\r\nHost: {host}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    socket.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
