//! Starts the programs of `examples/backends` as their READMEs say, on free ports.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Program, eventually, free_address, nginx, root, service};

/// How fast a backend's events come, and after how many its streams end.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) interval_ms: u32,
    pub(super) count: u32,
}

impl Pace {
    pub(super) const ENDLESS: Self = Self { interval_ms: 200, count: 1_000_000 };

    fn on(self, command: &mut Command) -> &mut Command {
        command.env("INTERVAL_MS", self.interval_ms.to_string()).env("COUNT", self.count.to_string())
    }
}

/// A running backend. Its programs end with it.
pub(super) struct Example {
    pub(super) address: SocketAddr,
    _programs: Vec<Program>,
    _directories: Vec<tempfile::TempDir>,
}

impl Example {
    /// None, with a message, where what it is built on could not be installed.
    pub(super) fn start(name: &str, pace: Pace) -> Option<Self> {
        let folder = root().join("examples/backends").join(name);
        let mut command = match name {
            "php" => return Self::php_fpm(pace),
            "php_built_in" => return Self::php_built_in(pace),
            "node" => Command::new("node"),
            "express" => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", installed(name)?.join("node_modules"));
                command
            }
            "fastapi" => Command::new(installed(name)?.join("venv/bin/python")),
            "spring" => Command::new("java"),
            _ => panic!("no example {name}"),
        };
        match name {
            "fastapi" => command.arg(folder.join("app.py")).env("PYTHONDONTWRITEBYTECODE", "1"),
            "spring" => command.arg(format!("@{}", installed(name)?.join("run").display())),
            _ => command.arg(folder.join("server.js")),
        };
        let program = Program::start(pace.on(&mut command).env("PORT", "0"));
        Some(Self { address: program.address(), _programs: vec![program], _directories: Vec::new() })
    }

    /// PHP-FPM and its web server, with the example's own configurations, only addresses and paths replaced.
    fn php_fpm(pace: Pace) -> Option<Self> {
        let Some(name) = php_fpm_program() else { return absent("php", "PHP-FPM is not installed") };
        let folder = root().join("examples/backends/php");
        let directory = tempfile::tempdir().unwrap();
        let fastcgi = free_address("127.83.69.3");
        let config = replaced(
            &folder.join("php-fpm.conf"),
            &[
                ("listen = 127.0.0.1:9000", format!("listen = {fastcgi}")),
                // The user who runs the tests: the only one who can be sure to read this folder.
                ("user = www-data\ngroup = www-data\n", format!("user = {}\n", user())),
            ],
        );
        let file = directory.path().join("php-fpm.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = service(&name);
        command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(&file);
        command.env("CLIENTS_DIR", directory.path().join("clients"));
        let fpm = Program::start(pace.on(&mut command));
        eventually("PHP-FPM listens", || TcpStream::connect(fastcgi).ok());

        let listen = free_address("127.83.69.4");
        let config = replaced(
            &folder.join("nginx.conf"),
            &[
                ("listen 127.0.0.1:3000;", format!("listen {listen};")),
                ("server 127.0.0.1:9000;", format!("server {fastcgi};")),
                ("root public;", format!("root {};", folder.join("public").display())),
                ("daemon off;\n", String::new()),
                ("pid nginx.pid;\n", String::new()),
            ],
        );
        let (nginx, prefix) = nginx(&config, listen);
        Some(Self { address: listen, _programs: vec![nginx, fpm], _directories: vec![prefix, directory] })
    }

    /// PHP's own server for development, with as many workers as a test has streams and requests at a time.
    fn php_built_in(pace: Pace) -> Option<Self> {
        if Command::new("php").arg("--version").output().is_err() {
            return absent("php", "PHP is not installed");
        }
        let directory = tempfile::tempdir().unwrap();
        let address = free_address("127.83.69.5");
        let public = root().join("examples/backends/php/public");
        let mut command = Command::new("php");
        command.arg("-S").arg(address.to_string()).arg("-t").arg(&public).arg(public.join("router.php"));
        command.env("PHP_CLI_SERVER_WORKERS", "6").env("CLIENTS_DIR", directory.path().join("clients"));
        let program = Program::start(pace.on(&mut command));
        eventually("PHP listens", || TcpStream::connect(address).ok());
        Some(Self { address, _programs: vec![program], _directories: vec![directory] })
    }
}

/// Where `scripts/setup-examples` has put what the example is built on.
fn installed(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("backends").join(name);
    match folder.join("installed-for").exists() {
        true => Some(folder),
        false => absent(name, "what it is built on is not installed (scripts/setup-examples)"),
    }
}

fn absent<T>(name: &str, why: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "the {name} backend: {why}");
    eprintln!("skipped: the {name} backend: {why}");
    None
}

/// The program with its version in its name, as Debian calls it, or without.
fn php_fpm_program() -> Option<String> {
    let path = format!("{}:/usr/local/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let entries = path.split(':').filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("php-fpm")).max()
}

fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

/// A file of the example with these parts of it replaced, each of which it has to have once.
fn replaced(file: &Path, parts: &[(&str, String)]) -> String {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (part, with) in parts {
        assert_eq!(text.matches(part).count(), 1, "{} has {part:?} once", file.display());
        text = text.replace(part, with);
    }
    text
}
