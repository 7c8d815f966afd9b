//! Free loopback addresses: each program gets its own 127.0.x.y, so that the ports of one leg never run into another's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Streams per address. A source has usually 28,232 ephemeral ports towards one destination, of which the kernel tries every
/// second one first: with those used up, looking for a port takes longer with each connection, at the connecting side's cost.
const STREAMS_PER_ADDRESS: u64 = 10_000;

/// How many addresses a program has to listen on so that `streams` connections from one source fit.
pub(super) fn needed(streams: u64) -> u8 {
    u8::try_from(streams.div_ceil(STREAMS_PER_ADDRESS)).unwrap_or(u8::MAX).max(1)
}

/// Loopback addresses with port 0, for a program that picks its ports itself.
pub(super) fn loopbacks(host: u8, count: u8) -> impl Iterator<Item = SocketAddr> {
    (0..count).map(move |index| SocketAddr::from((Ipv4Addr::new(127, 0, index, host), 0)))
}

/// Loopback addresses with ports that are free now, for a program whose configuration names its port.
pub(super) fn free(host: u8, count: u8) -> io::Result<Vec<SocketAddr>> {
    loopbacks(host, count).map(|address| TcpListener::bind(address)?.local_addr()).collect()
}
