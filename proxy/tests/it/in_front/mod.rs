//! Proxies in front: nginx, HAProxy and Caddy with the shipped files, with only their addresses replaced. `carries` has
//! the tests that are the same for each.

mod caddy;
mod carries;
mod haproxy;
mod nginx;
mod nginx_as_it_comes;
mod nginx_files;
mod not_run;
mod tcp;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{Proxy, eventually};

/// A running program in front, its address, and the folder with its files. It ends with the test.
struct Front {
    child: Child,
    address: SocketAddr,
    files: tempfile::TempDir,
}

impl Front {
    /// Starts `command` and waits until it listens on `address`. What it says goes to a file that a failing test prints.
    fn start(command: &mut Command, address: SocketAddr, files: tempfile::TempDir) -> Self {
        let name = command.get_program().to_owned();
        let said = std::fs::File::create(files.path().join("said")).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `make setup` installs what the tests need", name.display()));
        let front = Self { child, address, files };
        eventually("the program in front listens", || TcpStream::connect(address).ok());
        front
    }

    /// The origin of its pages: `https://localhost:PORT`.
    fn https(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // A process that is terminated stops its workers; one that is killed does not.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..300 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- in front ---\n{}",
                std::fs::read_to_string(self.files.path().join("said")).unwrap_or_default()
            );
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A program that Debian may keep where not every shell looks.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

/// An unused address, for a program that cannot inherit a socket. Its port is below the kernel's ephemeral range, so
/// that no other test takes it meanwhile.
fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(101);
    let ports = std::iter::repeat_with(|| 10_000 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    let mut addresses = ports.take(1000).map(|port| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port below 30000")
}

/// Replaces what has to be there.
fn replace(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the shipped file has no {from:?}, which this test replaces");
        text.replace(from, to)
    })
}

/// A fresh certificate for `localhost` in `cert.pem` and `key.pem`, and both in `both.pem`.
fn certificate(directory: &Path) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    std::fs::write(directory.join("cert.pem"), &cert).unwrap();
    std::fs::write(directory.join("key.pem"), &key).unwrap();
    std::fs::write(directory.join("both.pem"), cert + &key).unwrap();
}

/// curl with the options of all these tests; accepts self-signed certificates.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--insecure", "--max-time", "20"]).args(arguments);
    command
}

/// The proxy in front of `backend` with heartbeats that show soon, everything carried as a stream that is one.
fn proxy(backend: SocketAddr) -> Proxy {
    Proxy::start(backend, "    heartbeat: {interval: 100ms}")
}

/// nginx with the text of a configuration.
fn nginx(text: &str, address: SocketAddr, files: tempfile::TempDir) -> Front {
    let file = files.path().join("nginx.conf");
    let pid = files.path().join("pid");
    std::fs::write(&file, format!("daemon off;\npid {};\n{text}", pid.display())).unwrap();
    let mut command = program("nginx");
    command.arg("-p").arg(files.path()).args(["-e", "stderr", "-c"]).arg(&file);
    Front::start(&mut command, address, files)
}

/// The shipped file `name`, listening on `address` in front of `upstream`, its other files in `directory`.
fn nginx_file(name: &str, address: SocketAddr, upstream: SocketAddr, directory: &Path) -> String {
    let text = std::fs::read_to_string(root().join("nginx").join(name)).unwrap();
    let host = if name == "baseline.conf" { "origin:9000" } else { "proxy:8080" };
    let mut text = replace(
        &text,
        &[
            (&format!("server {host};"), &format!("server {upstream};")),
            ("/tmp/nginx-", &format!("{}/", directory.display())),
            // One worker has one pool of kept connections.
            ("worker_processes auto;", "worker_processes 1;"),
        ],
    );
    if name == "front-tls.conf" {
        certificate(directory);
        text = replace(
            &text,
            &[
                ("listen 443 ", &format!("listen {address} ")),
                ("listen 80;", &format!("listen {};", free())),
                ("/etc/nginx/tls/fullchain.pem", &directory.join("cert.pem").display().to_string()),
                ("/etc/nginx/tls/privkey.pem", &directory.join("key.pem").display().to_string()),
            ],
        );
    } else {
        text = replace(&text, &[("listen 8080 ", &format!("listen {address} "))]);
    }
    text
}

/// nginx with a shipped file in front of `upstream`.
fn shipped_nginx(name: &str, upstream: SocketAddr) -> Front {
    let files = tempfile::tempdir().unwrap();
    let address = free();
    let text = nginx_file(name, address, upstream, files.path());
    nginx(&text, address, files)
}
