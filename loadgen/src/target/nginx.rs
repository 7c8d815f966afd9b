//! Starts nginx with a configuration file as it stands, only the addresses replaced, and the listener made to speak what the
//! clients do.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::entrance::Entrance;
use super::{Running, TargetError, address, probe};

const LISTEN: &str = "listen 8080";
/// As in nginx/front-tls.conf.
const SSL_BUFFER: &str = "ssl_buffer_size 4k;";
/// What sse-proxy allows too.
const MIN_CONCURRENT_STREAMS: u64 = 256;

/// An nginx to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nginx<'a> {
    pub(super) name: &'static str,
    pub(super) program: &'a Path,
    pub(super) config: &'a Path,
    /// The beginning of the line that names the upstream.
    pub(super) upstream_line: &'static str,
    pub(super) entrance: &'a Entrance,
    pub(super) streams_per_connection: u64,
    /// Last byte of its loopback addresses.
    pub(super) host: u8,
}

impl Nginx<'_> {
    /// Starts it in front of `upstreams`; returns it with its addresses when it answers.
    pub(super) async fn start(
        &self,
        upstreams: &[SocketAddr],
        directory: &Path,
    ) -> Result<(Running, Vec<SocketAddr>), TargetError> {
        let refuse = |source| TargetError::Start { program: self.name.to_owned(), source };
        let text = read(self.config)?;
        let count = u8::try_from(upstreams.len()).unwrap_or(u8::MAX);
        let listen = address::free(self.host, count).map_err(refuse)?;
        let (parameters, directives) = speaking(self.entrance, self.streams_per_connection);
        let text = insert_before(&text, LISTEN, &directives);
        let text = readdress(&text, self.config, LISTEN, |address| format!("listen {address}{parameters}"), &listen)?;
        let text = readdress(&text, self.config, self.upstream_line, |address| format!("server {address}"), upstreams)?;
        let prefix = directory.join(self.name);
        std::fs::create_dir_all(&prefix).map_err(refuse)?;
        std::fs::write(prefix.join("nginx.conf"), text).map_err(refuse)?;
        let globals = format!("daemon off; pid {};", prefix.join("nginx.pid").display());
        let arguments: [OsString; 8] = [
            "-p".into(),
            prefix.clone().into(),
            "-c".into(),
            prefix.join("nginx.conf").into(),
            "-e".into(),
            "stderr".into(),
            "-g".into(),
            globals.into(),
        ];
        let mut running = Running::start(self.name, self.program, &arguments, directory, true)?;
        let entry = listen[0];
        running.ready(async |_: &Running| probe::is_open(entry, self.entrance).await).await?;
        Ok((running, listen))
    }
}

/// Checks that the configuration allows for `streams`, two connections each, over as many workers as it asks for.
///
/// # Errors
/// When it cannot be read or is too small.
pub fn check_config(path: &Path, streams: u64) -> Result<(), TargetError> {
    let text = read(path)?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = directive(&text, "worker_processes").map_or(1, |value| value.parse().unwrap_or(cores));
    let connections = directive(&text, "worker_connections").and_then(|value| value.parse().ok()).unwrap_or(512);
    // Workers never get exactly equal shares: a tenth is left for that.
    let fits = connections * workers / 2 * 9 / 10;
    if streams <= fits {
        return Ok(());
    }
    Err(TargetError::ConfigTooSmall { path: path.to_owned(), workers, connections, streams, fits })
}

fn read(path: &Path) -> Result<String, TargetError> {
    std::fs::read_to_string(path).map_err(|source| TargetError::Config { path: path.to_owned(), source })
}

fn directive<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with(name))?;
    line[name.len()..].trim().strip_suffix(';').map(str::trim)
}

/// What is added to a `listen` line, and the lines beside it.
fn speaking(entrance: &Entrance, streams_per_connection: u64) -> (String, Vec<String>) {
    let (mut parameters, mut directives) = (String::new(), Vec::new());
    if let Some(certificate) = &entrance.certificate {
        parameters += " ssl";
        directives.push(format!("ssl_certificate {:?};", certificate.cert));
        directives.push(format!("ssl_certificate_key {:?};", certificate.key));
        directives.push(SSL_BUFFER.to_owned());
    }
    if entrance.protocol.is_http2() {
        // A parameter up to 1.25.0; newer ones want a directive, and still take this.
        parameters += " http2";
        let streams = streams_per_connection.max(MIN_CONCURRENT_STREAMS);
        directives.push(format!("http2_max_concurrent_streams {streams};"));
        // Streams count as requests, after so many of which the connection is closed.
        directives.push("keepalive_requests 1000000;".to_owned());
    }
    (parameters, directives)
}

fn insert_before(text: &str, begin: &str, lines: &[String]) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        if rest_of(line, begin).is_some() {
            lines.iter().for_each(|line| out.push_str(&format!("        {line}\n")));
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// What follows `begin` on the line that it begins.
fn rest_of<'l>(line: &'l str, begin: &str) -> Option<&'l str> {
    let rest = line.trim_start().strip_prefix(begin)?;
    rest.starts_with([';', ' ']).then_some(rest)
}

/// Replaces the one line that begins with `begin` by one for each address, keeping what follows on it.
fn readdress(
    text: &str,
    path: &Path,
    begin: &'static str,
    with: impl Fn(SocketAddr) -> String,
    addresses: &[SocketAddr],
) -> Result<String, TargetError> {
    let found = text.lines().filter(|line| rest_of(line, begin).is_some()).count();
    if found != 1 {
        return Err(TargetError::ConfigText { path: PathBuf::from(path), expected: begin, found });
    }
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        match rest_of(line, begin) {
            Some(rest) => {
                addresses.iter().for_each(|address| out.push_str(&format!("        {}{rest}\n", with(*address))))
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "worker_processes 3;\nevents {\n  worker_connections 1000;\n}\n# listen 8080 is replaced\nlisten 8080 reuseport;\n";

    #[test]
    fn the_listen_line_is_replaced_by_one_per_address_and_comments_are_not() {
        let addresses = ["127.0.0.12:81".parse().expect("valid"), "127.0.1.12:82".parse().expect("valid")];
        let text = readdress(CONFIG, Path::new("x"), LISTEN, |address| format!("listen {address}"), &addresses)
            .expect("one line");
        assert!(text.contains("listen 127.0.0.12:81 reuseport;\n        listen 127.0.1.12:82 reuseport;\n"), "{text}");
        assert!(text.contains("# listen 8080 is replaced"), "{text}");
    }

    #[test]
    fn the_listener_speaks_what_the_clients_do() {
        use crate::protocol::Protocol;

        let directory = tempfile::tempdir().expect("a temporary directory");
        let speak = |protocol: Protocol| {
            let entrance = Entrance::prepare(protocol, directory.path()).expect("writable");
            let (parameters, directives) = speaking(&entrance, 300);
            (parameters, insert_before(CONFIG, LISTEN, &directives))
        };
        assert_eq!(speak(Protocol::H1), (String::new(), CONFIG.to_owned()));
        let (parameters, text) = speak(Protocol::H2);
        assert_eq!((parameters.as_str(), speak(Protocol::Tls).0.as_str()), (" ssl http2", " ssl"));
        let added = ["ssl_certificate \"/", "ssl_certificate_key \"/", SSL_BUFFER, "http2_max_concurrent_streams 300;"];
        assert!(added.iter().all(|line| text.contains(&format!("        {line}"))), "{text}");
        assert!(text.contains("keepalive_requests 1000000;\nlisten 8080 reuseport;\n"), "{text}");
        assert_eq!(speak(Protocol::H2c).0, " http2");
    }

    #[test]
    fn a_missing_or_repeated_line_is_refused() {
        for text in [String::new(), CONFIG.repeat(2), CONFIG.replace("listen 8080 reuse", "listen 80801 reuse")] {
            let result = readdress(&text, Path::new("x.conf"), LISTEN, |address| address.to_string(), &[]);
            assert!(matches!(result, Err(TargetError::ConfigText { .. })), "{text}");
        }
    }

    #[test]
    fn capacity_is_checked_before_anything_starts() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), CONFIG).expect("written");
        check_config(file.path(), 1350).expect("1000 × 3 ÷ 2 less a tenth");
        let error = check_config(file.path(), 1351).expect_err("too many");
        assert!(error.to_string().contains("--streams 1350"), "{error}");
    }

    #[test]
    fn the_configurations_that_are_shipped_can_be_readdressed() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx");
        for (file, upstream) in [("baseline.conf", "server origin:9000"), ("front.conf", "server proxy:8080")] {
            let path = directory.join(file);
            let text = read(&path).expect("shipped");
            for begin in [LISTEN, upstream] {
                readdress(&text, &path, begin, |address| address.to_string(), &[]).expect(begin);
            }
        }
    }
}
