//! Third-party programs, as processes that end with the test; and nginx in front of the proxy.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{DEADLINE, eventually};

/// A child process. It ends with the test, also when that panics; then what it has logged is shown.
pub struct Program {
    child: Child,
    name: String,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; `make setup` installs what the tests need"));
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // Read to its end, so that the program never waits for this side.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut pipe, kept) = (child.stderr.take().unwrap(), stderr.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, name, lines, stderr }
    }

    /// The next line that it prints.
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(DEADLINE);
        line.unwrap_or_else(|error| panic!("{}: no line on its standard output: {error}", self.name))
    }

    /// The address in the line `listening on ADDRESS`.
    pub fn address(&self) -> SocketAddr {
        let line = self.line();
        let address = line.strip_prefix("listening on ").and_then(|address| address.trim().parse().ok());
        address.unwrap_or_else(|| panic!("{} says {line:?}, and not where it listens", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Also terminates the program's workers: nginx stops its own, PHP's built-in server does not.
        let pid = self.child.id().to_string();
        let workers = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = Command::new("kill").arg(&pid).args(workers.split_whitespace()).stderr(Stdio::null()).status();
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.stderr.lock().unwrap());
        }
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A command that is also looked for where Debian keeps services.
pub fn service(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/local/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

/// An address on this loopback host that is free now.
pub fn free_address(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

/// nginx with this configuration, of which `listen` is one address, in a new folder.
pub fn nginx(config: &str, listen: SocketAddr) -> (Program, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().display();
    let config = config.replace("/tmp/nginx-", &format!("{folder}/"));
    let file = directory.path().join("nginx.conf");
    std::fs::write(&file, format!("daemon off;\npid {folder}/pid;\n{config}")).unwrap();
    let mut command = service("nginx");
    command.arg("-p").arg(directory.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
    let program = Program::start(&mut command);
    eventually("nginx listens", || TcpStream::connect(listen).ok());
    (program, directory)
}

/// nginx with the project's own front configuration, only its addresses replaced.
pub fn nginx_in_front_of(proxy: SocketAddr) -> (Program, SocketAddr, tempfile::TempDir) {
    let listen = free_address("127.83.69.2");
    let front = std::fs::read_to_string(root().join("nginx/front.conf")).unwrap();
    assert!(front.contains("listen 8080 ") && front.contains("server proxy:8080;"), "the lines this test replaces");
    let front = front
        .replace("listen 8080 ", &format!("listen {listen} "))
        .replace("server proxy:8080;", &format!("server {proxy};"));
    let (program, directory) = nginx(&front, listen);
    (program, listen, directory)
}
