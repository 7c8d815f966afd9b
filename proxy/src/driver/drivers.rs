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
use super::visit::Visitor;
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

    /// Shows every stream that runs now to `visitor`, on the thread that runs it. Returns whether all have been visited
    /// within `limit`. Needs a runtime with timers.
    ///
    /// # Cancel safety
    /// Dropped before it is done, some streams are not visited.
    pub async fn visit(&self, visitor: Arc<Visitor>, limit: Duration) -> bool {
        let reactors = self.reactors.get().map_or(&[][..], |reactors| reactors);
        let under_way = self.registry.begin_visit(visitor, reactors.len());
        for (number, reactor) in (1..).zip(reactors) {
            if let Err(error) = reactor.send(Command::Visit(under_way.visit.clone(), number)) {
                log::error!("streams not visited: side=internal: {error}");
                under_way.visit.one_finished();
            }
        }
        let all = async {
            under_way.wake_tasks().await;
            under_way.visit.finished().await;
        };
        tokio::time::timeout(limit, all).await.is_ok()
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
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::driver::{Pending, Route, RunningStream, StreamInfo};
    use crate::sse::Heartbeat;
    use crate::stream::{EndReason, Framing, HeartbeatPolicy, Millis, Opening, Policy};
    use crate::wire::body::Body;

    /// A running stream with a client to read from and an upstream to write to.
    fn started(drivers: &Drivers, target: &str, kind: fn(TcpStream) -> Transport) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            near.set_nonblocking(true).expect("an option");
            let (far, _) = listener.accept().expect("a connection");
            far.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
            (near, far)
        };
        let ((client, far_client), (upstream, far_upstream)) = (pair(), pair());
        let route = Route::new("/", Policy::default(), Arc::new(()));
        let (policy, body) = (route.policy.clone(), Body::UntilClose);
        let opening = Opening { policy, body, framing: Framing::Plain, identity: true, random: 0.0, lifetime: None };
        let info = StreamInfo::new(None, None, "GET", target, Duration::ZERO);
        let start = Start { opening, unsent: b"head".to_vec(), leftover: Vec::new(), route, info };
        drivers.start(start, kind(client), kind(upstream)).expect("a stream");
        (far_client, far_upstream)
    }

    /// A visitor that ends the streams with this target, gives the others short heartbeats, and keeps their names.
    fn visit(drivers: &Drivers, ends: &'static str, heartbeats: bool) -> (bool, Vec<String>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let names = seen.clone();
        let visitor: Arc<Visitor> = Arc::new(move |stream: &mut RunningStream<'_>| {
            names.lock().expect("a list").push(stream.id().to_string());
            assert_eq!((&**stream.route(), stream.counts().events, stream.pending_bytes()), ("/", 0, 0));
            if stream.info().path() == ends {
                stream.end(EndReason::Admin, Duration::from_secs(1));
            } else if heartbeats {
                let mut policy = Policy::clone(stream.policy());
                policy.heartbeat = Some(HeartbeatPolicy::new(Duration::from_millis(20), Heartbeat::default()));
                stream.set_policy(Arc::new(policy));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let complete = runtime.block_on(drivers.visit(visitor, Duration::from_secs(20)));
        let mut names = seen.lock().expect("a list").clone();
        names.sort();
        names.dedup();
        (complete, names)
    }

    #[test]
    fn every_running_stream_can_be_seen_changed_and_ended_on_its_own_thread() {
        use std::io::Read;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        for driver in [Driver::Parked, Driver::Task] {
            let drivers = Drivers::new(driver, 2);
            let targets = ["/ends", "/stays", "/ends", "/stays", "/stays"];
            let mut peers: Vec<_> =
                targets.map(|target| (target, started(&drivers, target, Transport::Tcp))).into_iter().collect();
            // Each has been driven: only then it has its place.
            for (_, (client, _)) in &mut peers {
                let mut head = [0; 4];
                client.read_exact(&mut head).expect("the head");
            }
            let (complete, names) = visit(&drivers, "/ends", true);
            assert!(complete, "{driver:?}");
            assert_eq!(names.len(), targets.len(), "{driver:?}: {names:?}");
            for (target, (client, _upstream)) in &mut peers {
                let mut bytes = [0; 3];
                match *target {
                    "/ends" => assert_eq!(client.read(&mut bytes).expect("an end"), 0, "{driver:?}"),
                    _ => {
                        client.read_exact(&mut bytes).expect("a heartbeat");
                        assert_eq!(&bytes, b":\n\n", "{driver:?}");
                    }
                }
            }
            let left = visit(&drivers, "", false).1;
            assert_eq!(left.len(), 3, "{driver:?}");
            assert!(left.iter().all(|name| names.contains(name)), "names stay: {left:?} of {names:?}");
            assert_eq!(drivers.registry().active(), 3, "{driver:?}");
        }
    }

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
