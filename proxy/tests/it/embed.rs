//! The plugin inside another Pingora proxy: `examples/embed.rs`, built with the tests and run here.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::{Backend, CHUNKED, Client, chunk, eventually};

struct Example(Child);

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_pingora_proxy_serves_streams_with_one_call() {
    let backend = Backend::start(|mut connection| {
        if connection.path() == "/page" {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage");
        } else {
            connection.send(CHUNKED);
            connection.send(chunk(b"data: a\n\n"));
        }
        connection.hang();
    });
    // The example takes its port by number: one that was free a moment ago, on an address that nothing else here uses.
    let listen: SocketAddr = TcpListener::bind("127.83.69.1:0").unwrap().local_addr().unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_sse-proxy")).with_file_name("examples").join("embed");
    let mut child = Command::new(&program)
        .args([listen.to_string(), backend.address.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; it is built by `cargo test`", program.display()));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let _example = Example(child);
    eventually("the example listens", || TcpStream::connect(listen).ok());

    let mut stream = Client::connect(listen);
    stream.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(stream.read_head().status, 200);
    assert_eq!(stream.read_until_body_has("data: a\n\n:\n\n"), "data: a\n\n:\n\n");
    drop(stream);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "/events ended: client_gone after 1 events\n");

    let mut page = Client::connect(listen);
    page.send("GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(page.read_head().status, 200);
    page.read_until(|bytes| bytes == b"page");
}
