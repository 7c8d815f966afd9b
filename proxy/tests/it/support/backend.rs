//! A scripted backend, byte for byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::DEADLINE;

/// How long scripts may run after the backend is dropped: longer than the deadline of their reads. A test drops its
/// proxy first as a rule, which ends what they wait for.
const SCRIPT_END_LIMIT: Duration = DEADLINE.saturating_add(Duration::from_secs(5));

/// Listens until it is dropped. Each connection runs the script on its own thread. A script that panics fails the test:
/// the panic is raised again when the backend is dropped.
pub struct Backend {
    pub address: SocketAddr,
    heads: Receiver<String>,
    listener: TcpListener,
    scripts: Arc<Scripts>,
    gate: Arc<Gate>,
}

/// Steps that the test allows scripts to take, one after another: in place of a sleep that hopes to be long enough.
#[derive(Default)]
struct Gate {
    allowed: Mutex<usize>,
    more: Condvar,
}

/// The running scripts of one backend, and the first panic of those that have ended.
#[derive(Default)]
struct Scripts {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    panic: Option<Box<dyn std::any::Any + Send>>,
}

/// One connection of the proxy to the backend, its request head read.
pub struct Connection {
    pub socket: TcpStream,
    /// The request head, blank line included.
    pub head: String,
    /// What came after the head so far.
    pub rest: Vec<u8>,
    gate: Arc<Gate>,
}

impl Backend {
    pub fn start(script: impl Fn(Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, heads) = channel();
        let script = Arc::new(script);
        let scripts = Arc::<Scripts>::default();
        let (accepting, runner) = (listener.try_clone().unwrap(), scripts.clone());
        let gate = Arc::<Gate>::default();
        let shared = gate.clone();
        thread::spawn(move || {
            for socket in accepting.incoming() {
                // Shut down, because the backend has been dropped.
                let Ok(socket) = socket else { return };
                let (script, sender, gate) = (script.clone(), sender.clone(), shared.clone());
                runner.run(socket, move |socket| {
                    if let Some(connection) = Connection::accept(socket, gate) {
                        let _ = sender.send(connection.head.clone());
                        script(connection);
                    }
                });
            }
        });
        Self { address, heads, listener, scripts, gate }
    }

    /// Answers every request with these bytes, each part in its own write, and closes.
    pub fn answering(parts: Vec<Vec<u8>>) -> Self {
        Self::start(move |mut connection| {
            for part in &parts {
                connection.send(part);
            }
        })
    }

    /// The head of the next request that came in.
    pub fn request(&self) -> String {
        self.heads.recv_timeout(DEADLINE).expect("a request at the backend")
    }

    /// Lets this many scripts go on that wait, or will wait, in [`Connection::wait_for_test`].
    pub fn proceed(&self, scripts: usize) {
        *self.gate.allowed.lock().unwrap_or_else(PoisonError::into_inner) += scripts;
        self.gate.more.notify_all();
    }
}

impl Scripts {
    fn run(self: &Arc<Self>, socket: TcpStream, script: impl FnOnce(TcpStream) + Send + 'static) {
        self.lock().running += 1;
        let scripts = self.clone();
        thread::spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| script(socket)));
            let mut state = scripts.lock();
            state.running -= 1;
            if let Err(panic) = outcome {
                state.panic.get_or_insert(panic);
            }
            drop(state);
            scripts.ended.notify_all();
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no script runs any more. Whether that came within the limit.
    fn wait(&self) -> bool {
        let running = |state: &mut State| state.running > 0;
        let waited = self.ended.wait_timeout_while(self.lock(), SCRIPT_END_LIMIT, running);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        // The test has failed already: keep that panic.
        if thread::panicking() {
            return;
        }
        let ended = self.scripts.wait();
        if let Some(panic) = self.scripts.lock().panic.take() {
            resume_unwind(panic);
        }
        assert!(ended, "a script of the backend does not end");
    }
}

impl Connection {
    fn accept(socket: TcpStream, gate: Arc<Gate>) -> Option<Self> {
        socket.set_nodelay(true).ok()?;
        socket.set_read_timeout(Some(DEADLINE)).ok()?;
        let mut connection = Self { socket, head: String::new(), rest: Vec::new(), gate };
        let mut bytes = Vec::new();
        loop {
            if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                connection.rest = bytes.split_off(at + 4);
                connection.head = String::from_utf8(bytes).ok()?;
                return Some(connection);
            }
            let mut buffer = [0; 4096];
            match connection.socket.read(&mut buffer) {
                Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                _ => return None,
            }
        }
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Blocks until the test calls [`Backend::proceed`]. A test that never does so fails.
    pub fn wait_for_test(&self) {
        let allowed = self.gate.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.gate.more.wait_timeout_while(allowed, DEADLINE, |allowed| *allowed == 0);
        let (mut allowed, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the test did not let the script go on within {DEADLINE:?}");
        *allowed -= 1;
    }

    /// Writes. Ignores errors: the test checks whether the proxy has closed.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes);
    }

    /// The same; whether the proxy still takes it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// Answers with a body that is no stream.
    pub fn answer(&mut self, content_type: &str, body: &str) {
        let length = body.len();
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"));
    }

    /// Reads more of what the proxy sends, until `done` says it is enough.
    pub fn read_until(&mut self, done: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 4096];
        while !done(&self.rest) {
            match self.socket.read(&mut buffer) {
                Ok(count @ 1..) => self.rest.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
    }

    /// Reads the request's body, by its length.
    pub fn read_body(&mut self) {
        let head = self.head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        self.read_until(|body| body.len() >= length.unwrap_or(0));
    }

    /// Whether the proxy has closed this connection.
    pub fn closed(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let peeked = self.socket.peek(&mut [0]);
        self.socket.set_nonblocking(false).unwrap();
        match peeked {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Blocks until the proxy closes this connection; false when it does not within the deadline.
    pub fn closed_by_proxy(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.socket);
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }

    /// Stays open and silent until the proxy closes.
    pub fn hang(mut self) {
        self.closed_by_proxy();
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: an assertion that does not hold fails its test, on whichever thread. Mechanism: the threads of scripts were
    /// detached, and their panics ended with them. Symptom: what a backend asserted could not fail a test.
    #[test]
    #[should_panic(expected = "said in the script")]
    fn a_panic_in_a_script_fails_the_test() {
        let backend = Backend::start(|connection| assert_eq!(connection.path(), "/other", "said in the script"));
        let mut client = TcpStream::connect(backend.address).unwrap();
        client.write_all(b"GET /path HTTP/1.1\r\n\r\n").unwrap();
        backend.request();
    }
}
