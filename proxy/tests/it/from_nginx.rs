//! `docs/from-nginx.md`: its nginx configuration and its own do the same.

use std::net::SocketAddr;

use crate::support::{Backend, Client, Proxy, free_address, nginx};

/// The code block of this language.
fn block(page: &str, language: &str) -> String {
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split("```").next().expect("its end").to_owned()
}

/// What a request through the proxy at `front` is at the backend, and what comes back, as far as the page is about it.
fn through(
    front: SocketAddr,
    backend: &Backend,
    method: &str,
    target: &str,
    host: &str,
) -> (String, Vec<String>, Vec<Option<String>>) {
    let mut client = Client::connect(front);
    client.send(&format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    let response = client.read_head();
    assert_eq!(response.status, 200, "{method} {target}");
    let head = backend.request();
    let mut lines = head.lines();
    let line = lines.next().expect("a request line").to_owned();
    let same = ["host", "x-real-ip", "x-forwarded-for", "x-forwarded-proto"];
    let mut fields: Vec<String> = lines.map(str::to_lowercase).collect();
    fields.retain(|field| field.split_once(':').is_some_and(|(name, _)| same.contains(&name)));
    fields.sort();
    (line, fields, ["x-frame-options", "x-powered-by", "x-own"].map(|name| response.header(name)).to_vec())
}

#[test]
fn the_two_configurations_of_the_example_do_the_same() {
    let page = std::fs::read_to_string(crate::support::root().join("docs/from-nginx.md")).expect("the page");
    let backend = Backend::answering(vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Powered-By: x\r\nX-Own: 1\r\nConnection: close\r\n\r\ndata: a\n\n".to_vec(),
    ]);
    let listen = free_address("127.83.69.3");
    let config = block(&page, "nginx");
    assert!(config.contains("listen 127.0.0.1:8080;") && config.contains("server 127.0.0.1:3000;"), "{config}");
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path /tmp/nginx-{name};"));
    let config = config
        .replace("listen 127.0.0.1:8080;", &format!("listen {listen};"))
        .replace("server 127.0.0.1:3000;", &format!("server {};", backend.address))
        // What follows concerns where the test runs.
        .replacen("http {", &format!("http {{ access_log off; {}", temporary.join(" ")), 1);
    let (_nginx, _directory) = nginx(&format!("error_log stderr;\nevents {{}}\n{config}"), listen);
    let yaml = block(&page, "yaml");
    let (listener, rest) = yaml.split_once('\n').expect("lines");
    assert_eq!(listener, "listen: [{address: 127.0.0.1:8080}]");
    let proxy = Proxy::start_with(&rest.replace("127.0.0.1:3000", &backend.address.to_string()));
    for (method, target, host, at_backend) in [
        ("GET", "/api/users?a=b", "app.example", "/users?a=b"),
        ("POST", "/api/", "a.app.example", "/"),
        ("GET", "/apiary", "app.example", "/apiary"),
        ("GET", "/events?a=b", "app.example", "/events?a=b"),
        ("GET", "/events/7", "app.example", "/events/7"),
        ("POST", "/v1/chat", "app.example", "/internal/v1/chat"),
        ("GET", "/other/%20x", "app.example", "/other/%20x"),
    ] {
        let here = through(proxy.address, &backend, method, target, host);
        let there = through(listen, &backend, method, target, host);
        assert_eq!(here.0, format!("{method} {at_backend} HTTP/1.1"), "{target}");
        assert_eq!(here.1.len(), 4, "{target}: {:?}", here.1);
        assert_eq!(here, there, "{target}");
    }
}
