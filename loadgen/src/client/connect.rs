//! Opens a connection from a chosen source address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Connects to `destination`, from `source` if one is given. Cancel-safe: dropping it closes the socket.
///
/// # Errors
/// What the system says.
pub async fn connect(source: Option<IpAddr>, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        // Leaves the choice of port to `connect`: then the four-tuple has to be unique, not the port alone.
        if source.is_ipv4() {
            nix::sys::socket::setsockopt(&socket, IpBindAddressNoPort, &true)?;
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(destination).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
