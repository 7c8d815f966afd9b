//! Serves with Pingora the connections that the reactors hand off, and those of listeners that reactors do not accept from.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use pingora::proxy::HttpProxy;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_runtime::current_handle;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::connections::{Connections, Preamble};
use crate::driver::{canonical, descriptors, is_of_the_client};
use crate::gateway::Gateway;
use crate::takeover::{HandedOff, Handoff, InFlight};
use crate::threads::Essential;

/// How often a listener that has stopped accepting for lack of descriptors, or after an error, tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// More than the accept queue of a listener holds.
const LONGEST_QUEUE: usize = 1 << 16;

/// The application that serves the connections outside of the reactors.
pub type Application = Connections<HttpProxy<Gateway>>;

/// A service whose connections come from the reactors, and from listeners that may be added while it runs.
pub struct Fallback {
    application: Arc<Application>,
    handed_off: UnboundedReceiver<Handoff>,
    listeners: UnboundedReceiver<TaskListener>,
}

/// A listener for TLS, or any listener where there are no reactors. A task accepts its connections.
pub struct TaskListener {
    socket: TcpListener,
    preamble: Preamble,
    stop: oneshot::Receiver<()>,
    /// Dropped once the socket is closed.
    _closed: mpsc::Sender<()>,
}

/// Closes a [`TaskListener`].
pub(crate) struct TaskListenerHandle {
    stop: oneshot::Sender<()>,
    closed: mpsc::Receiver<()>,
}

impl Fallback {
    /// Serves connections with `application`.
    pub(crate) fn new(
        application: Application,
        handed_off: UnboundedReceiver<Handoff>,
        listeners: UnboundedReceiver<TaskListener>,
    ) -> Self {
        Self { application: Arc::new(application), handed_off, listeners }
    }

    fn serve(&self, handed_off: HandedOff, in_flight: Option<InFlight>, shutdown: ShutdownWatch) {
        let (application, h2c) = (self.application.clone(), handed_off.h2c());
        // On any of the service's threads.
        current_handle().spawn(async move {
            let client = match handed_off.into_connection() {
                Ok(client) => client,
                Err(error) => {
                    log::error!("connection dropped: side=internal: it cannot be registered with the runtime: {error}");
                    return;
                }
            };
            let mut serving = Box::pin(application.serve(client, h2c, &shutdown));
            // After the first poll, HttpProxy has the request and counts it.
            let looked_at = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context))).await;
            drop(in_flight);
            if looked_at.is_pending() {
                serving.await;
            }
        });
    }
}

#[async_trait]
impl Service for Fallback {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let _essential = Essential::new("fallback");
        loop {
            tokio::select! {
                Some(handoff) = self.handed_off.recv() => match handoff {
                    Handoff::Client(handed_off, in_flight) => self.serve(handed_off, in_flight, shutdown.clone()),
                    // Closes idle connections. More connections may follow: a request that waits for its response may
                    // still be handed off.
                    Handoff::Closed => self.application.cleanup().await,
                },
                Some(listener) = self.listeners.recv() => {
                    current_handle().spawn(listener.run(self.application.clone(), shutdown.clone()));
                }
                else => return,
            }
        }
    }

    fn name(&self) -> &str {
        "fallback"
    }
}

impl TaskListener {
    /// Accepts from `socket` connections that begin as `preamble` says.
    pub(crate) fn new(socket: TcpListener, preamble: Preamble) -> (Self, TaskListenerHandle) {
        let ((stop, stopped), (closes, closed)) = (oneshot::channel(), mpsc::channel());
        (Self { socket, preamble, stop: stopped, _closed: closes }, TaskListenerHandle { stop, closed })
    }

    async fn run(self, application: Arc<Application>, mut shutdown: ShutdownWatch) {
        // A panic here would leave the listener bound with nothing accepting from it.
        let _essential = Essential::new("accept");
        let Self { socket, preamble, mut stop, _closed } = self;
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return log::error!("listener closed: side=internal: no registration with epoll: {error}"),
        };
        let watch = shutdown.clone();
        let serve = |(socket, client): (TcpStream, SocketAddr)| {
            let (application, preamble, shutdown) = (application.clone(), preamble.clone(), watch.clone());
            let client = canonical(client);
            // On any of the service's threads.
            current_handle().spawn(async move { application.accepted(socket, client, &preamble, &shutdown).await });
        };
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                _ = shutdown.wait_for(|stopping| *stopping) => break,
                accepted = accept(&listener) => serve(accepted),
            }
        }
        // A connection that is still queued when the listener closes would be reset.
        for _ in 0..LONGEST_QUEUE {
            let queued = poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await;
            let Poll::Ready(Ok(accepted)) = queued else { break };
            serve(accepted);
        }
    }
}

impl TaskListenerHandle {
    /// Accepts what is queued, closes the listener, and waits until it is closed. Its connections go on.
    ///
    /// # Errors
    /// When the task does not answer.
    pub(crate) fn close(self) -> io::Result<()> {
        drop(self.stop);
        match self.closed.recv_timeout(Duration::from_secs(5)) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the task that accepts does not answer"))
            }
            _ => Ok(()),
        }
    }
}

/// The next connection. Cancel safe.
async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        // Connections wait in the kernel's queue.
        while descriptors::are_scarce() {
            tokio::time::sleep(PAUSE).await;
        }
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                log::error!("cannot accept connections: side=internal: {error}; they stay queued until others end");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
