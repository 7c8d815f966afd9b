//! Clients and servers that vanish: their machine loses its network, and no packet shows it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::{Backend, CHUNKED, Certificate, Proxy, changes_network, chunk, eventually};

/// A network with another machine on it, which can be cut off.
struct Network {
    name: String,
    here: String,
    there: String,
}

impl Network {
    /// `None` where this is not allowed, as without root.
    fn new(at: u32) -> Option<Self> {
        let number = std::process::id() * 8 + at;
        let subnet = format!("10.{}.{}", 64 + number / 256 % 128, number % 256);
        let network = Self { name: format!("sse{number}"), here: format!("{subnet}.1"), there: format!("{subnet}.2") };
        let Self { name, here, there } = &network;
        let commands = [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("addr add {here}/24 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add {there}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ];
        if let Some(failed) = commands.iter().find(|command| !ip(command)) {
            eprintln!("skipped: `ip {failed}` is not possible here; network namespaces need root");
            return None;
        }
        Some(network)
    }

    /// A program on the other machine.
    fn run(&self, program: &str, arguments: &[&str]) -> Guard {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(arguments);
        Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Drops all packets in both directions from here on.
    fn cut(&self) {
        assert!(ip(&format!("-n {} link set eth0 down", self.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output();
    output.is_ok_and(|output| output.status.success())
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The proxy's connections with an address; none as long as one of them has something unacknowledged.
fn connections(proxy: &Proxy, peer: &str) -> Option<usize> {
    let output = Command::new("ss").args(["-tnpH", "state", "established"]).output().unwrap();
    let pid = format!("pid={},", proxy.pid());
    let text = String::from_utf8(output.stdout).unwrap();
    let own = text.lines().filter(|line| line.contains(&pid) && line.contains(&format!("{peer}:")));
    own.map(|line| line.split_whitespace().nth(1)).try_fold(0, |count, queue| (queue == Some("0")).then_some(count + 1))
}

const KEEPALIVE: &str = "tcp_keepalive: {idle: 1s, interval: 1s, count: 2}";
const NO_LIMITS: &str = "heartbeat: {interval: 0}, timeouts: {idle: 0, write: 0, first_byte: 0}";

/// Invariant: a vanished client is detected in a bounded time, whatever its connection is used for. Mechanism: nothing
/// is sent to it, and the kernel's default keep-alive waits for two hours. Symptom: streams without heartbeats, waiting
/// pages and idle HTTP/2 connections stayed open.
#[test]
fn vanished_clients_are_detected() {
    let _alone = changes_network();
    let certificate = Certificate::new();
    let config = format!("upstreams: {{app: {{servers: ['BACKEND']}}}}\nroutes: [{{{NO_LIMITS}}}]\n");
    let plain = String::new();
    let tls = format!(", tls: {}", certificate.yaml());
    // At the same time: what they do is wait.
    std::thread::scope(|scope| {
        for (at, (driver, tls)) in
            [("parked", &plain), ("parked", &tls), ("task", &plain), ("task", &tls)].into_iter().enumerate()
        {
            let config = &config;
            scope.spawn(move || vanished_clients(at as u32, driver, tls, config));
        }
    });
}

fn vanished_clients(at: u32, driver: &str, tls: &str, config: &str) {
    let Some(network) = Network::new(at) else { return };
    let backend = Backend::start(|mut connection| {
        if connection.path() != "/page" {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
        }
        connection.hang();
    });
    let config = config.replace("BACKEND", &backend.address.to_string());
    let scheme = if tls.is_empty() { "http" } else { "https" };
    let listener = format!("{{address: '{}:0', {KEEPALIVE}{tls}}}", network.here);
    let proxy = Proxy::start_on(driver, &[], &listener, &config);
    let url = |path: &str| format!("{scheme}://{}{path}", proxy.address);
    let curl = |arguments: &[&str], path: &str| {
        network.run("curl", &[&["-skN", "-o", "/dev/null"], arguments, &[&url(path)]].concat())
    };
    let mut clients = vec![curl(&["--http1.1", "-H", "Accept: text/event-stream"], "/events")];
    clients.push(curl(&["--http1.1"], "/page"));
    if !tls.is_empty() {
        clients.push(curl(&["--http2", "-H", "Accept: text/event-stream"], "/events"));
    }
    clients.iter().for_each(|_| drop(backend.request()));
    let events = 9.0 * (clients.len() - 1) as f64;
    eventually("the streams have begun", || {
        (proxy.metric("sse_proxy_body_bytes_total{route=\"/\"}") == Some(events)).then_some(())
    });
    eventually("and their clients have it", || {
        (connections(&proxy, &network.there) == Some(clients.len())).then_some(())
    });
    network.cut();
    eventually("all of them are found", || (connections(&proxy, &network.there) == Some(0)).then_some(()));
}

/// The same of a server that vanishes, with no limit on its silence.
#[test]
fn vanished_servers_are_detected() {
    const SERVER: &str = "
import socket, sys
listener = socket.create_server((sys.argv[1], 3000), backlog=16)
kept = []
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\ndata: a\\n\\n')
    kept.append(connection)
";
    let _alone = changes_network();
    std::thread::scope(|scope| {
        for (at, driver) in [(4, "parked"), (5, "task")] {
            scope.spawn(move || vanished_server(at, driver, SERVER));
        }
    });
}

fn vanished_server(at: u32, driver: &str, program: &str) {
    let Some(network) = Network::new(at) else { return };
    let server: SocketAddr = format!("{}:3000", network.there).parse().unwrap();
    let _server = network.run("python3", &["-c", program, &network.there]);
    eventually("the server listens", || std::net::TcpStream::connect(server).ok());
    let proxy = Proxy::start_on(
        driver,
        &[],
        "{address: 127.0.0.1:0}",
        &format!("upstreams: {{app: {{servers: ['{server}'], {KEEPALIVE}}}}}\nroutes: [{{{NO_LIMITS}}}]\n"),
    );
    let mut stream = proxy.stream("/events");
    stream.read_head();
    stream.read_until_body_has("data: a\n\n");
    let mut page = proxy.connect();
    page.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    page.read_head();
    eventually("both are asked", || (connections(&proxy, &network.there) == Some(2)).then_some(()));
    network.cut();
    eventually("both are found", || (connections(&proxy, &network.there) == Some(0)).then_some(()));
    assert_eq!(proxy.log_line()["end"], "upstream_broken", "{driver}");
}
