//! The binary under test, with its own configuration and ports.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Client, DEADLINE, eventually};

pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    stderr: Arc<Mutex<String>>,
    stderr_is_read: Arc<AtomicBool>,
    log_lines: Receiver<String>,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// In front of `backend`, with the YAML of one route's keys (indented by four), such as `    stream: always`.
    pub fn start(backend: SocketAddr, route: &str) -> Self {
        Self::start_with(&format!(
            "upstreams: {{app: {{servers: [{backend}]}}}}\nroutes:\n  - upstream: app\n{route}\ndrain: {{timeout: 2m}}\n"
        ))
    }

    /// With a whole configuration, save the listeners.
    pub fn start_with(config: &str) -> Self {
        Self::start_listening("{address: 127.0.0.1:0}", config)
    }

    /// With a listener of one's own, and a whole configuration otherwise. Tests under a module named `on_tasks` run their
    /// streams on the driver that gives each a task.
    pub fn start_listening(listener: &str, config: &str) -> Self {
        Self::start_in(&[], listener, config)
    }

    /// The same, with variables in its environment.
    pub fn start_in(environment: &[(&str, &str)], listener: &str, config: &str) -> Self {
        let on_tasks = thread::current().name().is_some_and(|test| test.starts_with("on_tasks::"));
        Self::start_on(if on_tasks { "task" } else { "parked" }, environment, listener, config)
    }

    /// With the keys of `admin`, and a whole configuration otherwise.
    pub fn start_with_admin(admin: &str, config: &str) -> Self {
        Self::start_all("parked", &[], "{address: 127.0.0.1:0}", admin, config)
    }

    /// The same, on a driver of the test's choice.
    pub fn start_on(driver: &str, environment: &[(&str, &str)], listener: &str, config: &str) -> Self {
        Self::start_all(driver, environment, listener, "{address: 127.0.0.1:0}", config)
    }

    fn start_all(driver: &str, environment: &[(&str, &str)], listener: &str, admin: &str, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sse-proxy.yaml");
        let listeners = format!("listen: [{listener}]\nadmin: {admin}\ndriver: {driver}\n");
        std::fs::write(&file, format!("{listeners}{config}")).unwrap();
        let program = env!("CARGO_BIN_EXE_sse-proxy");
        // A limit on descriptors has to be there before the program starts.
        let mut command = match environment.iter().find(|(name, _)| *name == "NOFILE") {
            Some((_, limit)) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut child = command
            .arg("--config")
            .arg(&file)
            .env_remove("SSE_PROXY_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let stderr_is_read = Arc::new(AtomicBool::new(true));
        let (mut pipe, kept, is_read) = (child.stderr.take().unwrap(), stderr.clone(), stderr_is_read.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
                while !is_read.load(Ordering::Relaxed) {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        });
        let (sender, log_lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut proxy = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            stderr,
            stderr_is_read,
            log_lines,
            directory,
        };
        proxy.address = proxy.announced("listening on ");
        if !admin.contains("unix:") {
            proxy.admin = proxy.announced("admin on ");
        }
        proxy
    }

    fn announced(&self, what: &str) -> SocketAddr {
        eventually(what, || {
            let stderr = self.stderr();
            let (_, rest) = stderr.split_once(what)?;
            let (line, _) = rest.split_once('\n')?;
            line.split_whitespace().next()?.parse().ok()
        })
    }

    /// The path of a file beside its configuration.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The path of its configuration.
    pub fn file(&self) -> std::path::PathBuf {
        self.path("sse-proxy.yaml")
    }

    /// Replaces a part of its configuration, which it does not read again by itself.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.file()).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
        std::fs::write(self.file(), text.replace(from, to)).unwrap();
    }

    /// The response to `POST /reload`, with further fields.
    pub fn post_reload(&self, fields: &str) -> (u16, String) {
        let mut client = Client::connect(self.admin);
        client.send(&format!(
            "POST /reload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n",
            self.admin
        ));
        let head = client.read_head();
        (head.status, String::from_utf8(client.read_to_end().unwrap()).unwrap())
    }

    /// Lets it read its configuration again; what has changed.
    pub fn reload(&self) -> String {
        let (status, text) = self.post_reload("");
        assert_eq!(status, 200, "{text}");
        text
    }

    /// Sends SIGHUP and waits for the outcome. Whether it is a success.
    pub fn hang_up(&self) -> bool {
        let count = |outcome: &str| self.metric(&format!("sse_proxy_reloads_total{{outcome=\"{outcome}\"}}")).unwrap();
        let before = [count("success"), count("failure")];
        self.signal("HUP");
        eventually("the reload", || match [count("success"), count("failure")] {
            now if now == before => None,
            now => Some(now[0] > before[0]),
        })
    }

    /// Everything logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Whether its standard error is read. When not, the pipe fills.
    pub fn read_stderr(&self, is_read: bool) {
        self.stderr_is_read.store(is_read, Ordering::Relaxed);
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that is its own and no file's, in bytes. Pages of the binary are left out: their share grows when another
    /// test's proxy ends.
    pub fn memory(&self) -> usize {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The same once the allocator has given back what a burst needed: the least until it has not become less for a while.
    pub fn settled_memory(&self) -> usize {
        let (mut least, mut since) = (self.memory(), std::time::Instant::now());
        while since.elapsed() < std::time::Duration::from_millis(1500) {
            thread::sleep(std::time::Duration::from_millis(50));
            let now = self.memory();
            if now < least {
                (least, since) = (now, std::time::Instant::now());
            }
        }
        least
    }

    /// Sets a limit of the running process, as `prlimit` writes it.
    pub fn limit(&self, limit: &str) {
        let status = Command::new("prlimit").args(["--pid", &self.pid().to_string(), limit]).status();
        assert!(status.unwrap().success(), "prlimit {limit}");
    }

    /// A connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The same over TLS.
    pub fn connect_tls(&self) -> Client {
        Client::connect_tls(self.address)
    }

    /// Descriptors that the process has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// A stream request on a new connection.
    pub fn stream(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"));
        client
    }

    /// The next access log line.
    pub fn log_line(&self) -> serde_json::Value {
        let line = self.log_lines.recv_timeout(DEADLINE).expect("an access log line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// A connection to the admin listener that has been answered once and is kept open.
    pub fn admin_client(&self) -> Client {
        let mut client = Client::connect(self.admin);
        client.send("GET /healthz HTTP/1.1\r\nHost: admin\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        client.read_until(|bytes| bytes == b"ok\n");
        client.forget();
        client
    }

    /// One page of the admin listener: status and body.
    pub fn admin_page(&self, path: &str) -> (u16, String) {
        Self::page_at(self.admin, path)
    }

    fn page_at(admin: SocketAddr, path: &str) -> (u16, String) {
        let mut client = Client::connect(admin);
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
        let head = client.read_head();
        (head.status, String::from_utf8(client.read_to_end().unwrap()).unwrap())
    }

    /// The answer of the admin listener to any request: status, and body as JSON where it is.
    pub fn admin_request(&self, request: &str, fields: &str) -> (u16, serde_json::Value) {
        let mut client = Client::connect(self.admin);
        client.send(&format!("{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}\r\n", self.admin));
        let head = client.read_head();
        let body = client.read_to_end().unwrap();
        (head.status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The status of a page of the admin listener; none once it does not answer any more.
    pub fn admin_status(&self, path: &str) -> Option<u16> {
        let mut socket = std::net::TcpStream::connect(self.admin).ok()?;
        socket.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut socket, request.as_bytes()).ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    }

    /// A metric's value, by its name and labels as they are printed.
    pub fn metric(&self, name: &str) -> Option<f64> {
        Self::metric_at(self.admin, name)
    }

    /// The same of the proxy whose admin address this is.
    pub fn metric_at(admin: SocketAddr, name: &str) -> Option<f64> {
        let (_, text) = Self::page_at(admin, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name]).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to exit by itself.
    pub fn exited(&mut self) -> ExitStatus {
        eventually("the process exits", || self.child.try_wait().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.stderr());
        }
    }
}
