//! Pages and uploads: complete over every protocol, with bounded memory, and with broken ends that clients see.

mod detection;
mod errors;
mod heads;
mod limits;
mod uploads;
mod upstreams;

use std::net::SocketAddr;
use std::process::Command;

use crate::support::{Backend, Certificate, Proxy, contains};

/// How a client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Tls,
    Http2,
    H2c,
}

const PROTOCOLS: [Protocol; 4] = [Protocol::Http1, Protocol::Tls, Protocol::Http2, Protocol::H2c];

/// A proxy with a listener for one protocol.
struct Front {
    proxy: Proxy,
    protocol: Protocol,
    _certificate: Option<Certificate>,
}

/// What curl says of one request.
#[derive(Debug)]
struct Seen {
    /// The exit code: 0 for a response that is complete.
    code: i32,
    heads: String,
    body: Vec<u8>,
    stderr: String,
}

impl Front {
    /// `route` is the YAML of one route's keys, in braces.
    fn start(protocol: Protocol, servers: &str, route: &str) -> Self {
        Self::start_with(protocol, &format!("upstreams: {{app: {{servers: [{servers}]}}}}\nroutes: [{route}]\n"))
    }

    /// With a whole configuration, save the listener.
    fn start_with(protocol: Protocol, config: &str) -> Self {
        let certificate = matches!(protocol, Protocol::Tls | Protocol::Http2).then(Certificate::new);
        let more = match (&certificate, protocol) {
            (Some(certificate), _) => format!(", tls: {}", certificate.yaml()),
            (None, Protocol::H2c) => ", h2c: true".to_owned(),
            (None, _) => String::new(),
        };
        let proxy = Proxy::start_listening(&format!("{{address: 127.0.0.1:0{more}}}"), config);
        Self { proxy, protocol, _certificate: certificate }
    }

    /// A request by curl.
    fn curl(&self, path: &str, arguments: &[&str]) -> Seen {
        let directory = tempfile::tempdir().unwrap();
        let heads = directory.path().join("heads");
        let (scheme, version) = match self.protocol {
            Protocol::Http1 => ("http", "--http1.1"),
            Protocol::Tls => ("https", "--http1.1"),
            Protocol::Http2 => ("https", "--http2"),
            Protocol::H2c => ("http", "--http2-prior-knowledge"),
        };
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--no-buffer", "--max-time", "120", version])
            .args(["--header", "Expect:", "--dump-header"])
            .arg(&heads)
            .args(arguments)
            .arg(format!("{scheme}://localhost:{}{path}", self.proxy.address.port()))
            .output()
            .unwrap();
        Seen {
            code: output.status.code().unwrap_or(-1),
            heads: std::fs::read_to_string(&heads).unwrap_or_default().to_lowercase(),
            body: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 | Protocol::H2c)
    }
}

/// Runs a test for each protocol, all at once: most of what it takes is the time of other programs.
fn for_each_protocol(test: impl Fn(Protocol) + Sync) {
    std::thread::scope(|scope| {
        PROTOCOLS
            .map(|protocol| {
                scope.spawn({
                    let test = &test;
                    move || test(protocol)
                })
            })
            .map(drop)
    });
}

/// An address without a listener. Its port is taken for as long as the test runs, so that no other program gets it.
fn dead_address() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// Answers requests one after another on each connection, as `answer` says.
fn serving(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut connection| {
        loop {
            connection.read_body();
            let response = answer(&connection.head);
            connection.send(response);
            connection.rest.clear();
            connection.read_until(|rest| contains(rest, b"\r\n\r\n"));
            if connection.rest.is_empty() {
                return;
            }
            connection.head = String::from_utf8(std::mem::take(&mut connection.rest)).unwrap();
        }
    })
}
