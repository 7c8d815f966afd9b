//! Shared by the integration tests: the real binary, scripted backends, clients that see every byte.

mod backend;
mod certificate;
mod client;
mod exchange;
mod matrix;
mod network;
mod programs;
mod proxy;

use std::time::{Duration, Instant};

pub use backend::{Backend, Connection};
pub use certificate::Certificate;
pub use client::{BROKEN, Client, Head, body_of, contains, dechunk};
pub use exchange::{End, Exchange, Protocol, Request};
pub use matrix::{Case, Combination, Setup};
pub use network::{changes_network, keeps_network};
pub use programs::{Program, free_address, nginx, nginx_in_front_of, root, service};
pub use proxy::Proxy;

/// The deadline of every wait. Far longer than anything takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Polls until `ask` returns a value.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The head of a chunked event stream.
pub const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The head of an event stream that ends with its connection.
pub const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// One chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
