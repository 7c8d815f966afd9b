//! nginx and HAProxy as proxies for TCP, which report the client's address by the PROXY protocol.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use super::{Front, free, program};
use crate::support::{Backend, Client, Proxy, UNTIL_CLOSE, nginx};

/// The client's address: another one than that of the program in front.
const CLIENT: [u8; 4] = [127, 83, 69, 77];

/// A proxy whose listener requires the header, which the program in front may send.
fn proxy(backend: &Backend) -> Proxy {
    let config = format!("trusted_proxies: [127.0.0.1]\nupstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    Proxy::start_listening("{address: 127.0.0.1:0, proxy_protocol: required}", &config)
}

/// A stream through the program in front, from [`CLIENT`]: the backend and the access log have its address.
fn reports_the_client(front: SocketAddr, backend: &Backend, proxy: &Proxy) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((CLIENT, 0)).into()).unwrap();
    socket.connect(&front.into()).unwrap();
    let socket = TcpStream::from(socket);
    let address = socket.local_addr().unwrap();
    let mut client = Client::over(socket);
    client.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    client.read_until_body_has("data: a");
    let head = backend.request().to_lowercase();
    assert!(head.contains(&format!("\r\nx-forwarded-for: {}\r\n", address.ip())), "{head}");
    assert_eq!(proxy.log_line()["client"], address.to_string());
}

fn backend() -> Backend {
    Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()])
}

#[test]
fn haproxy_reports_the_client_by_version_1_and_2() {
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id"] {
        let backend = backend();
        let proxy = proxy(&backend);
        let (address, files) = (free(), tempfile::tempdir().unwrap());
        let file = files.path().join("haproxy.cfg");
        let unique_id = if option.contains("unique-id") { "  unique-id-format %{+X}o%ci:%cp\n" } else { "" };
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen front\n{unique_id}  bind {address}\n  server proxy {} {option}\n",
            proxy.address
        );
        std::fs::write(&file, config).unwrap();
        let _front = Front::start(program("haproxy").arg("-db").arg("-f").arg(&file), address, files);
        reports_the_client(address, &backend, &proxy);
    }
}

/// The module of nginx for TCP, which Debian has in a package of its own; `None`, with a message, if it is missing.
fn stream_module() -> Option<PathBuf> {
    let folders = [std::env::var_os("NGINX_MODULES").map(PathBuf::from), Some("/usr/lib/nginx/modules".into())];
    let module =
        folders.into_iter().flatten().map(|folder| folder.join("ngx_stream_module.so")).find(|file| file.exists());
    if module.is_none() {
        assert!(std::env::var_os("CI").is_none(), "nginx has no stream module; `make setup` installs it");
        eprintln!("SKIPPED: nginx has no stream module (libnginx-mod-stream)");
    }
    module
}

#[test]
fn nginx_reports_the_client_by_its_stream_module() {
    let Some(module) = stream_module() else { return };
    let backend = backend();
    let proxy = proxy(&backend);
    let address = free();
    let config = format!(
        "load_module {};\nevents {{}}\nstream {{ server {{ listen {address}; proxy_pass {}; proxy_protocol on; }} }}\n",
        module.display(),
        proxy.address
    );
    // It looks whether nginx listens, which is a connection without a request.
    let (_nginx, _files) = nginx(&config, address);
    reports_the_client(address, &backend, &proxy);
}
