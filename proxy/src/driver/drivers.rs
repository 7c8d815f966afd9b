//! Starts each stream on the driver that can run it.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::drive::ActiveStream;
use super::reactor::{Command, ConnectionHandler, Handle, NewStream, Reactor, ReactorListener};
use super::registry::StreamRegistry;
use super::start::Start;
use super::transport::Transport;
use super::{clock, task};
use crate::threads;

/// How long a reactor may take to close a listener.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The driver for streams that can run on either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Plain TCP on both sides is parked in a table; everything else gets a task.
    #[default]
    Parked,
    /// Every stream gets a task on the runtime that it was started from.
    Task,
}

/// The drivers of one process and the streams on them.
pub struct Drivers {
    driver: Driver,
    threads: usize,
    registry: Arc<StreamRegistry>,
    reactors: OnceLock<Arc<[Handle]>>,
    next_reactor: AtomicUsize,
    next_listener: AtomicU64,
}

impl Default for Drivers {
    /// Reactor threads for half of the cores.
    fn default() -> Self {
        Self::new(Driver::default(), reactor_threads(thread::available_parallelism().map_or(1, usize::from)))
    }
}

/// The number of reactor threads for `workers` cores: half of them. One thread carries some 40,000 events a second, and
/// fewer threads handle more events per wakeup, which is most of the cost of an event; see
/// `docs/decisions/0004-threads-timers-and-build.md`.
pub fn reactor_threads(workers: usize) -> usize {
    workers.div_ceil(2)
}

impl Drivers {
    /// Drivers with this many reactor threads, which start with the first parked stream or the first listener.
    pub fn new(driver: Driver, threads: usize) -> Self {
        Self {
            driver,
            threads: threads.max(1),
            registry: Arc::default(),
            reactors: OnceLock::new(),
            next_reactor: AtomicUsize::new(0),
            next_listener: AtomicU64::new(0),
        }
    }

    /// The running streams, and how to drain them.
    pub fn registry(&self) -> &Arc<StreamRegistry> {
        &self.registry
    }

    /// Runs a stream to its end and counts it as open. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When its sockets cannot be registered; the stream is then counted as dropped.
    pub fn start(&self, start: Start, client: Transport, upstream: Transport) -> io::Result<()> {
        client.bound_send_queue(start.opening.policy.timeouts.write);
        let stream = ActiveStream::begin(start, self.registry.clone(), clock::now());
        let reactors = match self.driver {
            Driver::Parked => self.reactors(),
            Driver::Task => &[],
        };
        match (client, upstream) {
            (Transport::Tcp(client), Transport::Tcp(upstream)) if !reactors.is_empty() => {
                let next = self.next_reactor.fetch_add(1, Ordering::Relaxed);
                let client = mio::net::TcpStream::from_std(client);
                let upstream = mio::net::TcpStream::from_std(upstream);
                let stream = Box::new(NewStream { stream, client, upstream });
                reactors[next % reactors.len()].send(Command::Stream(stream))
            }
            (client, upstream) => task::spawn(stream, client, upstream),
        }
    }

    /// Registers a listener with the reactors: they accept its connections and pass them to `handler`, until a drain
    /// or [`OpenListener::close`] closes the listener. They accept nothing before [`BoundListener::open`]. Only for the
    /// parked driver.
    ///
    /// # Errors
    /// When no reactor thread is running.
    pub(crate) fn listen(
        &self,
        listener: TcpListener,
        handler: Arc<dyn ConnectionHandler>,
    ) -> io::Result<BoundListener> {
        // Accepted connections inherit it.
        SockRef::from(&listener).set_tcp_nodelay(true)?;
        let reactors = self.reactors.get_or_init(|| self.start_reactors()).clone();
        if reactors.is_empty() {
            return Err(io::Error::other("no reactor thread could be started"));
        }
        let listener = mio::net::TcpListener::from_std(listener);
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        Ok(BoundListener(ReactorListener { id, listener, handler, reactors }))
    }

    /// Whether every reactor thread answers within `limit`. Blocks until then.
    pub(crate) fn respond(&self, limit: Duration) -> bool {
        let Some(reactors) = self.reactors.get() else { return true };
        let (answer, answers) = channel();
        let asked = reactors.iter().all(|reactor| reactor.send(Command::Answer(answer.clone())).is_ok());
        let until = std::time::Instant::now() + limit;
        let left = || until.saturating_duration_since(std::time::Instant::now());
        asked && reactors.iter().all(|_| answers.recv_timeout(left()).is_ok())
    }

    fn reactors(&self) -> &[Handle] {
        self.reactors.get_or_init(|| self.start_reactors())
    }

    /// Starts as many as possible. Without any, every stream gets a task.
    fn start_reactors(&self) -> Arc<[Handle]> {
        let start = |at: usize| -> io::Result<Handle> {
            let (commands, inbox) = channel();
            let woken = Arc::new(AtomicBool::new(false));
            let (reactor, waker) = Reactor::new(inbox, woken.clone(), self.registry.clone())?;
            let waker = Arc::new(waker);
            self.registry.on_drain(waker.clone());
            // A panic would otherwise silently end its streams and listeners.
            threads::spawn(&format!("streams-{at}"), move || reactor.run())?;
            Ok(Handle { commands, waker, woken })
        };
        let started = (0..self.threads).map(start);
        started
            .filter_map(|handle| {
                handle.inspect_err(|error| log::error!("reactor thread not started: side=internal: {error}")).ok()
            })
            .collect()
    }
}

/// A bound listener from which nothing is accepted yet.
pub(crate) struct BoundListener(ReactorListener);

impl BoundListener {
    /// Starts accepting, queued connections included.
    ///
    /// # Errors
    /// When the reactor's thread has ended.
    pub(crate) fn open(self) -> io::Result<OpenListener> {
        let (id, reactors) = (self.0.id, self.0.reactors.clone());
        if let Some(first) = reactors.first() {
            first.send(Command::Listen(self.0))?;
        }
        Ok(OpenListener { id, reactors })
    }
}

/// A listener from which reactors accept.
pub(crate) struct OpenListener {
    id: u64,
    reactors: Arc<[Handle]>,
}

impl OpenListener {
    /// Accepts what is queued, closes the listener, and waits until it is closed. Its connections go on.
    ///
    /// # Errors
    /// When the reactor's thread has ended or does not answer.
    pub(crate) fn close(self) -> io::Result<()> {
        let Some(first) = self.reactors.first() else { return Ok(()) };
        let (closed, wait) = channel();
        first.send(Command::Close(self.id, closed))?;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the reactor's thread does not answer");
        wait.recv_timeout(CLOSE_LIMIT).map_err(late)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;
    use crate::driver::Pending;
    use crate::stream::Millis;

    /// Set in the child process, in which this test runs again and panics.
    const CHILD: &str = "SSE_PROXY_TEST_PANIC";

    struct Defective;

    impl ConnectionHandler for Defective {
        fn connected(&self, _: SocketAddr, _: Millis) -> Box<dyn Pending> {
            panic!("a defect outside of a stream's handling");
        }
    }

    fn connect_to_a_defective_reactor() -> io::Result<()> {
        let drivers = Drivers::new(Driver::Parked, 1);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        drivers.listen(listener, Arc::new(Defective))?.open()?;
        let _client = TcpStream::connect(address)?;
        thread::sleep(Duration::from_secs(60));
        Ok(())
    }

    /// Invariant: a panic in a reactor ends the process. Mechanism: a panic outside of a stream's handling ended only
    /// the thread. Symptom: its listeners and streams were dead, while `/healthz` reported ok.
    #[test]
    fn a_panic_in_a_reactor_ends_the_process() {
        for status in [None, Some(threads::EXIT_DEFECT)] {
            if let Ok(flushes) = std::env::var(CHILD) {
                if flushes == "true" {
                    threads::flush_before_exit(|| {});
                }
                return connect_to_a_defective_reactor().expect("a reactor");
            }
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "driver::drivers::tests::a_panic_in_a_reactor_ends_the_process"])
                .env(CHILD, status.is_some().to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a child");
            let until = Instant::now() + Duration::from_secs(20);
            let exited = loop {
                if let Some(exited) = child.try_wait().expect("a child") {
                    break exited;
                }
                if Instant::now() > until {
                    let _ = child.kill();
                    panic!("the process continues without its reactor");
                }
                thread::sleep(Duration::from_millis(10));
            };
            assert_eq!(exited.code(), status, "{exited:?}");
            // Without a flush function the process aborts.
            assert_eq!(exited.signal().is_some(), status.is_none(), "{exited:?}");
        }
    }
}
