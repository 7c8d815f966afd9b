//! The PROXY protocol header of a connection that a task reads, and the report of one that is closed because of it.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::proxy_protocol::{Header, ProxyProtocol, Violation};

/// Bytes read at once: a header and the beginning of what follows.
const READ_BYTES: usize = 512;

/// Reads a header from the front of a connection. Returns what it reports, and the bytes read behind it. Has no time limit.
/// Not cancel safe: the connection is of no use then.
///
/// # Errors
/// Why the connection has to be closed; [`io::ErrorKind::InvalidData`] has a [`Violation`] inside.
pub(crate) async fn read_proxy_header(
    connection: &mut (impl AsyncRead + Unpin),
    mode: ProxyProtocol,
    is_trusted: bool,
) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        let invalid = |violation| io::Error::new(io::ErrorKind::InvalidData, violation);
        if let Some(Header { length, source }) = mode.header(&received, is_trusted).map_err(invalid)? {
            return Ok((source, received.split_off(length)));
        }
        received.reserve(READ_BYTES);
        if connection.read_buf(&mut received).await? == 0 {
            return Err(if received.is_empty() {
                io::ErrorKind::UnexpectedEof.into()
            } else {
                invalid(Violation::Unfinished)
            });
        }
    }
}

/// Logs a connection that is closed because of its header.
pub(crate) fn report_violation(violation: Violation, peer: SocketAddr) {
    // Behind the fields, so that all peers share one limit on lines.
    log::warn!("connection closed: side=downstream reason={}: peer {peer}: {violation}", violation.as_str());
}
