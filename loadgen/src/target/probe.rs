//! Single small requests: is it ready, open the gate.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::head;

const DEADLINE: Duration = Duration::from_secs(5);

/// Sends `METHOD path` and returns the status.
///
/// # Errors
/// When there is no answer within five seconds.
pub async fn get(address: SocketAddr, method: &str, path: &str) -> io::Result<u16> {
    let answer = timeout(DEADLINE, exchange(address, method, path, false)).await??;
    Ok(answer.0)
}

/// Gets `path`; returns the status and everything after the head, up to the connection's end.
///
/// # Errors
/// When the answer has not come to its end within five seconds.
pub(super) async fn fetch(address: SocketAddr, path: &str) -> io::Result<(u16, Vec<u8>)> {
    timeout(DEADLINE, exchange(address, "GET", path, true)).await?
}

async fn exchange(address: SocketAddr, method: &str, path: &str, to_end: bool) -> io::Result<(u16, Vec<u8>)> {
    let mut io = TcpStream::connect(address).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if io.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = head::parse(&answer).map_err(io::Error::other)? {
            if to_end {
                io.read_to_end(&mut answer).await?;
            }
            return Ok((head.status, answer.split_off(head.bytes)));
        }
    }
}
