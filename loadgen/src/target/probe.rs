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
    timeout(DEADLINE, exchange(address, method, path)).await?
}

async fn exchange(address: SocketAddr, method: &str, path: &str) -> io::Result<u16> {
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
            return Ok(head.status);
        }
    }
}
