//! Single small requests: readiness checks, opening gates, reading gauges.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listener_spec::{ListenerSpec, SERVER_NAME};
use crate::client::tls::Connector;
use crate::client::{Io, http2};
use crate::wire::head;
use crate::wire::request::Request;

const DEADLINE: Duration = Duration::from_secs(5);

/// The first of a name's addresses that accepts a connection; the first of all when none does, for the error that it gives.
pub(super) async fn accepting(addresses: &[SocketAddr]) -> SocketAddr {
    for address in addresses {
        if matches!(timeout(DEADLINE, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return *address;
        }
    }
    addresses[0]
}

/// Sends `METHOD path` and returns the status.
///
/// # Errors
/// When there is no answer within five seconds.
pub async fn get(address: SocketAddr, method: &str, path: &str) -> io::Result<u16> {
    let answer = timeout(DEADLINE, ask(address, method, path, false)).await??;
    Ok(answer.0)
}

/// Gets `path`; returns the status and everything after the head, up to the connection's end.
///
/// # Errors
/// When the answer has not come to its end within five seconds.
pub(super) async fn fetch(address: SocketAddr, path: &str) -> io::Result<(u16, Vec<u8>)> {
    timeout(DEADLINE, ask(address, "GET", path, true)).await?
}

/// Whether `address` answers `/healthz` with 200, asked in the way of its entrance.
pub(super) async fn is_open(address: SocketAddr, listener_spec: &ListenerSpec) -> bool {
    let answer = async {
        let io = TcpStream::connect(address).await?;
        let request = request(address, "GET", "/healthz");
        let protocol = listener_spec.client_protocol.protocol;
        let io = match protocol.has_tls() {
            true => {
                let connector =
                    Connector::new(&listener_spec.trust(), protocol.is_http2()).map_err(io::Error::other)?;
                let connected = connector.connect(SERVER_NAME, io).await;
                Io::Tls(Box::new(connected.map_err(|reason| io::Error::other(reason.to_string()))?))
            }
            false => Io::Plain(io),
        };
        if !protocol.is_http2() {
            return Ok(exchange(io, &request, false).await?.0);
        }
        let request = http2::Request::new(&request, protocol.scheme().name()).map_err(io::Error::other)?;
        http2::status(io, &request).await.map_err(|reason| io::Error::other(reason.to_string()))
    };
    matches!(timeout(DEADLINE, answer).await, Ok(Ok(200)))
}

async fn ask(address: SocketAddr, method: &str, path: &str, to_end: bool) -> io::Result<(u16, Vec<u8>)> {
    exchange(TcpStream::connect(address).await?, &request(address, method, path), to_end).await
}

fn request(address: SocketAddr, method: &str, path: &str) -> Request {
    let host = address.to_string();
    let headers = [("Host", host.as_str()), ("Content-Length", "0"), ("Connection", "close")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Request { method: method.to_owned(), path: path.to_owned(), headers, body: Vec::new() }
}

async fn exchange(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    request: &Request,
    to_end: bool,
) -> io::Result<(u16, Vec<u8>)> {
    io.write_all(&request.to_http1()).await?;
    io.flush().await?;
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
