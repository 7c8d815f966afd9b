//! The admin listener on a unix socket: who may open the file may use it.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_runtime::current_handle;
use tokio::sync::watch;

use crate::threads::Essential;

/// Owner and group.
const MODE: u32 = 0o660;

/// How long accepting pauses after an error, usually for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds a socket. One that a process has left behind is replaced.
///
/// # Errors
/// When the path cannot be bound: another process listens on it, or it is not a socket.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path).or_else(|error| {
        let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
        let is_left =
            is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if error.kind() != io::ErrorKind::AddrInUse || !is_left {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        UnixListener::bind(path)
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A service that serves an application on a unix socket until the process exits.
pub struct OnUnixSocket<A> {
    application: Arc<A>,
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Never changes: the service runs through a drain.
    shutdown: (watch::Sender<bool>, watch::Receiver<bool>),
}

impl<A> OnUnixSocket<A> {
    /// Serves `application` on a bound socket.
    pub fn new(application: A, listener: UnixListener, path: &Path) -> Self {
        let shutdown = watch::channel(false);
        Self { application: Arc::new(application), listener: Some(listener), path: path.to_owned(), shutdown }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for OnUnixSocket<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let _essential = Essential::new("admin");
        let Some(listener) = self.listener.take() else { return };
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                log::error!("admin listener closed: side=internal: {}: {error}", self.path.display());
                return std::future::pending().await;
            }
        };
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (application, shutdown) = (self.application.clone(), self.shutdown.1.clone());
                    current_handle().spawn(async move {
                        let mut next: Option<pingora::protocols::Stream> = Some(Box::new(L4Stream::from(socket)));
                        while let Some(stream) = next {
                            next = application.process_new(stream, &shutdown).await;
                        }
                    });
                }
                Err(error) => {
                    log::error!("cannot accept admin connections: side=internal: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_left_behind_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let first = bind(&path).expect("a socket");
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, MODE);
        assert_eq!(bind(&path).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(bind(&path).expect("the path is free"));
        let file = folder.path().join("file");
        std::fs::write(&file, "data").expect("a file");
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), "data");
    }
}
