//! The file with the number of the process. The process holds a lock on it, so that a file that another process or nobody has
//! written is noticed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access, flock};
use thiserror::Error;

use crate::config::Problem;

/// The file of this process. It is removed when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// The file cannot be written, or does not lead to a process.
#[derive(Debug, Error)]
pub enum PidFileError {
    /// The system refuses.
    #[error("pid file {}: {source}; check the path at pid_file and its permissions", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A running process has written it.
    #[error("pid file {}: process {pid} runs and holds it; stop that process, or set another pid_file", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// What the file says.
        pid: String,
    },
    /// It does not contain a number.
    #[error("pid file {}: {content:?} is not the number of a process; remove the file, and name the one at pid_file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The beginning of the file.
        content: String,
    },
    /// The process that has written it has ended.
    #[error(
        "pid file {}: no sse-proxy holds it, so {pid} is not one or not one any more; start sse-proxy with this path at \
         pid_file",
        path.display()
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// What the file says.
        pid: u32,
    },
}

impl PidFile {
    /// Writes the number of this process. A file that a process has left behind is overwritten.
    ///
    /// # Errors
    /// When the file cannot be written, or belongs to a process that runs.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let system = |source| PidFileError::System { path: path.to_owned(), source };
        loop {
            let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let mut file = options.map_err(system)?;
            match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(PidFileError::Held { path: path.to_owned(), pid: content(&mut file).map_err(system)? });
                }
                Err(error) => return Err(system(error.into())),
            }
            // A process that exits removes its file before it gives up its lock: then this is not the file at the path.
            if !is_at(&file, path) {
                continue;
            }
            let former = content(&mut file).map_err(system)?;
            if !former.is_empty() {
                log::info!("pid file overwritten: process {former} has left {} behind", path.display());
            }
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            write(&mut file).map_err(system)?;
            return Ok(Self { path: path.to_owned(), file });
        }
    }

    /// The running process that has written `path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(path: &Path) -> Result<u32, PidFileError> {
        let system = |source| PidFileError::System { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(system)?;
        let content = content(&mut file).map_err(system)?;
        let malformed = |_| PidFileError::Malformed { path: path.to_owned(), content: content.clone() };
        let pid = content.parse::<u32>().map_err(malformed)?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(pid),
            Err(error) => Err(system(error.into())),
            Ok(()) => Err(PidFileError::Stale { path: path.to_owned(), pid }),
        }
    }

    /// Checks, without creating it, that the file could be written.
    ///
    /// # Errors
    /// When it could not.
    pub fn check(path: &Path) -> Result<(), Problem> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (what, remedy) = if path.is_dir() {
            ("which is a folder".to_owned(), "name a file in it".to_owned())
        } else if !folder.is_dir() {
            (
                format!("and there is no folder `{}`", folder.display()),
                format!("create it: `mkdir -p {}`", folder.display()),
            )
        } else {
            let target = if path.exists() { path } else { folder };
            let Err(error) = access(target, Access::WRITE_OK) else { return Ok(()) };
            (format!("which cannot be written: {error}"), "change the permissions, or name another file".to_owned())
        };
        Err(Problem::new(&["pid_file"], format!("is `{}`, {what}", path.display()), remedy))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have replaced it.
        if is_at(&self.file, &self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("pid file not removed: side=internal: {}: {error}", self.path.display());
        }
    }
}

/// The beginning of the file, without white space around it.
fn content(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(32).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_leads_to_the_process_that_holds_it_and_to_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sse-proxy.pid");
        let failed = |found: Result<u32, PidFileError>| found.expect_err("no process").to_string();
        assert!(failed(PidFile::find(&path)).contains("No such file"));
        for (content, wanted) in
            [("", "\"\" is not the number"), ("one", "\"one\" is not the number"), ("1\n", "no sse-proxy holds it")]
        {
            std::fs::write(&path, content).expect("a file");
            let error = failed(PidFile::find(&path));
            assert!(error.contains(wanted) && error.contains("sse-proxy.pid"), "{content:?}: {error}");
        }
        let held = PidFile::create(&path).expect("the stale file is overwritten");
        assert_eq!(PidFile::find(&path).expect("this process"), std::process::id());
        let second = PidFile::create(&path).expect_err("it is held").to_string();
        assert!(second.contains(&format!("process {} runs and holds it", std::process::id())), "{second}");
        drop(held);
        assert!(!path.exists(), "removed at the exit");
        let held = PidFile::create(&path).expect("a free path");
        std::fs::remove_file(&path).expect("a file");
        std::fs::write(&path, "1\n").expect("a file");
        drop(held);
        assert!(path.exists(), "a file that another process has put there stays");
    }
}
