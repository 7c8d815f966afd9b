//! Clients that request an endless flood of events and never read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::commands::request::RequestTemplate;
use crate::url::{Scheme, Url};

/// How long connecting, and the first byte, may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Small, so that what piles up does so before the client.
const CLIENT_BUFFER_BYTES: u32 = 4096;
/// As over Ethernet. Send buffers are reckoned in segments, and with loopback's 64 KiB each would grow to the 4 MiB at which the
/// kernel stops: more than that of a client far away ever does, and with some hundreds of them more than there is for TCP.
const SEGMENT_BYTES: u32 = 1460;

/// Opens `streams` of them, on all addresses in turn; returns those for which something has come, which they will not read.
pub(super) async fn open(entry: &[(SocketAddr, String)], streams: u64) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for (address, authority) in entry.iter().cycle().take(streams as usize) {
        clients.extend(timeout(DEADLINE, open_one(*address, authority)).await.ok().and_then(Result::ok));
    }
    clients
}

async fn open_one(address: SocketAddr, authority: &str) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(CLIENT_BUFFER_BYTES)?;
    SockRef::from(&socket).set_tcp_mss(SEGMENT_BYTES)?;
    let mut client = socket.connect(address).await?;
    let path = "/events?flood&size=1000".to_owned();
    let url = Url { scheme: Scheme::Http, authority: authority.to_owned(), path };
    client.write_all(&RequestTemplate::get().request(&url).to_http1()).await?;
    client.readable().await?;
    Ok(client)
}
