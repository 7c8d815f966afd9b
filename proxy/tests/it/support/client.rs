//! A client that sees every byte and every kind of end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

pub struct Client {
    pub socket: TcpStream,
    buffered: Vec<u8>,
}

/// A response head.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub text: String,
}

impl Head {
    /// The value of a header, by its name in lower case; several are joined with a comma.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        Self::over(socket)
    }

    /// With the smallest receive buffer the kernel gives, so that not reading shows soon.
    pub fn connect_small(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// Over a connection that the test has made.
    pub fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, buffered: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).unwrap();
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 8192];
        let count = self.socket.read(&mut buffer)?;
        self.buffered.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    pub fn read_head(&mut self) -> Head {
        loop {
            if let Some(at) = self.buffered.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.buffered.split_off(at + 4);
                let text = String::from_utf8(std::mem::replace(&mut self.buffered, rest)).unwrap();
                let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
                return Head { status, text };
            }
            assert_ne!(self.fill().expect("a response head"), 0, "closed within the head: {:?}", self.text());
        }
    }

    /// Reads until the bytes of the connection, framing included, satisfy `done`; gives all of them so far.
    pub fn read_until(&mut self, done: impl Fn(&[u8]) -> bool) -> &[u8] {
        while !done(&self.buffered) {
            let count = self.fill().unwrap_or_else(|error| panic!("{error} after {:?}", self.text()));
            assert_ne!(count, 0, "closed after {:?}", self.text());
        }
        &self.buffered
    }

    /// Reads until the body, chunked framing taken off, contains `text`.
    pub fn read_until_body_has(&mut self, text: &str) -> String {
        self.read_until(|bytes| contains(&dechunk(bytes).0, text.as_bytes()));
        String::from_utf8_lossy(&dechunk(&self.buffered).0).into_owned()
    }

    /// Everything up to the end of the connection. An error is the kind of end: reset, or the deadline.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffered))
    }

    /// Drops what has been read and not given out yet.
    pub fn forget(&mut self) {
        self.buffered.clear();
    }

    /// What has been read and not given out yet.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffered).into_owned()
    }
}

pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The body in a chunked response so far, and what follows the last chunk's size line once that has come (trailers and
/// the closing line end). Written for these tests: it shares nothing with the proxy.
pub fn dechunk(mut wire: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut body = Vec::new();
    loop {
        let Some(line) = wire.windows(2).position(|end| end == b"\r\n") else { return (body, None) };
        let size = std::str::from_utf8(&wire[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
        wire = &wire[line + 2..];
        if size == 0 {
            return (body, Some(wire.to_vec()));
        }
        if wire.len() < size + 2 {
            body.extend_from_slice(&wire[..wire.len().min(size)]);
            return (body, None);
        }
        assert_eq!(&wire[size..size + 2], b"\r\n", "a chunk ends with a line end");
        body.extend_from_slice(&wire[..size]);
        wire = &wire[size + 2..];
    }
}

/// The body of a chunked response that was ended in order.
pub fn body_of(wire: &[u8]) -> Vec<u8> {
    let (body, end) = dechunk(wire);
    assert_eq!(end.as_deref(), Some(&b"\r\n"[..]), "no clean end in {:?}", String::from_utf8_lossy(wire));
    body
}
