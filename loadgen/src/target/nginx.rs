//! Starts nginx with a configuration file as it stands, only the addresses replaced, the number of workers if it is given, and the
//! listener made to speak what the clients do.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use super::config_file::{directive, read, readdress, replace};
use super::error::TargetError;
use super::listener_spec::ListenerSpec;
use super::process::Running;
use super::{address, probe};

const LISTEN: &str = "listen 8080";
const WORKERS: &str = "worker_processes";
/// The beginning of the line that names the upstream: of nginx by itself, and in front of sse-proxy.
pub const BASELINE_UPSTREAM: &str = "server origin:9000";
/// The same of nginx in front of sse-proxy.
pub const FRONT_UPSTREAM: &str = "server proxy:8080";
/// What sse-proxy allows too.
const MIN_CONCURRENT_STREAMS: u64 = 256;

/// An nginx to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nginx<'a> {
    pub(super) name: &'static str,
    pub(super) program: &'a Path,
    pub(super) config: &'a Path,
    /// Worker processes; `None` for what the configuration says.
    pub(super) workers: Option<u64>,
    /// The beginning of the line that names the upstream.
    pub(super) upstream_line: &'static str,
    pub(super) listener_spec: &'a ListenerSpec,
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
        let mut text = read(self.config, option(self.upstream_line))?;
        if let Some(workers) = self.workers {
            text = replace(&text, self.config, WORKERS, |_| format!("{WORKERS} {workers};\n"))?;
        }
        let count = u8::try_from(upstreams.len()).unwrap_or(u8::MAX);
        let listen = address::free(self.host, count).map_err(refuse)?;
        let text = replace(&text, self.config, LISTEN, |rest| listener(self.listener_spec, &listen, rest))?;
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
        running.ready(async |_: &Running| probe::is_open(entry, self.listener_spec).await).await?;
        Ok((running, listen))
    }
}

/// A line for each address, with `rest` of the line that they replace, and what belongs to them.
fn listener(listener_spec: &ListenerSpec, listen: &[SocketAddr], rest: &str) -> String {
    let (mut parameters, mut lines) = (String::new(), Vec::new());
    if let Some(certificate) = &listener_spec.certificate {
        parameters += " ssl";
        lines.push(format!("ssl_certificate {:?};", certificate.cert));
        lines.push(format!("ssl_certificate_key {:?};", certificate.key));
        // As in nginx/front-tls.conf.
        lines.push("ssl_buffer_size 4k;".to_owned());
    }
    if listener_spec.client_protocol.protocol.is_http2() {
        // A parameter up to 1.25.0; newer ones want a directive, and still take this.
        parameters += " http2";
        let streams = listener_spec.client_protocol.streams_per_connection.max(MIN_CONCURRENT_STREAMS);
        lines.push(format!("http2_max_concurrent_streams {streams};"));
        // Streams count as requests, and nginx closes a connection after a number of them.
        lines.push("keepalive_requests 1000000;".to_owned());
    }
    lines.extend(listen.iter().map(|address| format!("listen {address}{parameters}{rest}")));
    lines.iter().map(|line| format!("        {line}\n")).collect()
}

/// The option that names the configuration with this upstream.
fn option(upstream_line: &str) -> &'static str {
    if upstream_line == FRONT_UPSTREAM { "--front-conf" } else { "--nginx-conf" }
}

/// Checks that the configuration has the lines that are replaced, with `upstream_line` among them, and that it allows for
/// `streams`, two connections each, over `workers` or as many as it asks for, none of which may have more than
/// `descriptor_limit` files open.
///
/// # Errors
/// When it cannot be read, lacks a line, or is too small.
pub fn check_config(
    path: &Path,
    upstream_line: &'static str,
    streams: u64,
    workers: Option<u64>,
    descriptor_limit: u64,
) -> Result<(), TargetError> {
    let text = read(path, option(upstream_line))?;
    for begin in [LISTEN, upstream_line] {
        readdress(&text, path, begin, |address| address.to_string(), &[])?;
    }
    if workers.is_some() {
        replace(&text, path, WORKERS, str::to_owned)?;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let own = || directive(&text, WORKERS).map_or(1, |value| value.parse().unwrap_or(cores));
    let workers = workers.unwrap_or_else(own);
    let connections: u64 = directive(&text, "worker_connections").and_then(|value| value.parse().ok()).unwrap_or(512);
    // Workers never get exactly equal shares: a tenth is left for that.
    let fits = connections.min(descriptor_limit) * workers / 2 * 9 / 10;
    if streams <= fits {
        return Ok(());
    }
    Err(TargetError::ConfigTooSmall { path: path.to_owned(), workers, connections, descriptor_limit, streams, fits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ClientProtocol, Protocol};

    const CONFIG: &str =
        "worker_processes 3;\nevents {\n  worker_connections 1000;\n}\nlisten 8080 reuseport;\nserver origin:9000;\n";

    #[test]
    fn the_listener_speaks_what_the_clients_do() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let addresses = ["127.0.0.12:81", "127.0.1.12:82"].map(|text| text.parse().expect("valid"));
        let speaks = |protocol: Protocol| {
            let listener_spec =
                ListenerSpec::prepare(ClientProtocol::new(protocol, Some(300)), directory.path()).expect("writable");
            listener(&listener_spec, &addresses, " reuseport;")
        };
        let plain = "        listen 127.0.0.12:81 reuseport;\n        listen 127.0.1.12:82 reuseport;\n";
        assert_eq!(speaks(Protocol::H1), plain);
        assert!(speaks(Protocol::Tls).ends_with(&plain.replace(" reuseport", " ssl reuseport")));
        assert!(speaks(Protocol::H2c).ends_with(&plain.replace(" reuseport", " http2 reuseport")));
        let both = speaks(Protocol::H2);
        assert!(both.ends_with(&plain.replace(" reuseport", " ssl http2 reuseport")), "{both}");
        for line in ["ssl_certificate \"/", "ssl_certificate_key \"/", "http2_max_concurrent_streams 300;"] {
            assert!(both.contains(&format!("        {line}")), "{both}");
        }
    }

    #[test]
    fn capacity_is_checked_before_anything_starts() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), CONFIG).expect("written");
        check_config(file.path(), BASELINE_UPSTREAM, 1350, None, 20_000).expect("1000 × 3 ÷ 2 less a tenth");
        let error = check_config(file.path(), BASELINE_UPSTREAM, 1351, None, 20_000).expect_err("too many");
        assert!(error.to_string().contains("--streams 1350"), "{error}");
        check_config(file.path(), BASELINE_UPSTREAM, 1800, Some(4), 20_000).expect("four workers hold more");
        let error = check_config(file.path(), BASELINE_UPSTREAM, 1800, Some(4), 800).expect_err("too few descriptors");
        assert!(error.to_string().contains("--streams 1440") && error.to_string().contains("--workers"), "{error}");
    }
}
