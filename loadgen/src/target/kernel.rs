//! Kernel memory of all sockets of the machine, which no process's own memory includes.
//!
//! Counted are the live objects a connection consists of (from `/proc/slabinfo`, which only root may read; otherwise all of
//! `Slab` in `/proc/meminfo`, which other work on the machine disturbs) and what is queued in TCP buffers
//! (`/proc/net/sockstat`, in pages). Only differences between two readings mean anything.

use serde::{Deserialize, Serialize};

use super::error::TargetError;

/// The caches a TCP connection on epoll takes an object from: socket, its inode and file, the poller's entry, packet heads.
const SOCKET_CACHES: [&str; 8] = [
    "TCP",
    "TCPv6",
    "sock_inode_cache",
    "filp",
    "eventpoll_epi",
    "skbuff_head_cache",
    "skbuff_small_head",
    "skbuff_fclone_cache",
];
/// A socket's inode has a dentry, which is counted with the inode: the dentry cache itself is full of files.
const DENTRY_BYTES: u64 = 192;
const PAGE_BYTES: u64 = 4096;

/// Where the number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Live socket objects.
    SocketObjects,
    /// All slabs.
    AllSlabs,
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelMemory {
    /// Bytes.
    pub bytes: u64,
    /// How they were counted.
    pub method: Method,
    /// TCP sockets on the machine: more than the load accounts for belong to other programs.
    pub sockets: u64,
}

/// Reads it.
///
/// # Errors
/// When neither source can be read.
pub fn read() -> Result<KernelMemory, TargetError> {
    let file = |path: &str| std::fs::read_to_string(path);
    let refuse = |source| TargetError::Reading { what: "kernel memory (/proc/meminfo)", source };
    let sockstat = file("/proc/net/sockstat").unwrap_or_default();
    let buffers = parse_sockstat(&sockstat, "mem").unwrap_or(0) * PAGE_BYTES;
    let sockets = parse_sockstat(&sockstat, "alloc").unwrap_or(0);
    if let Some(objects) = file("/proc/slabinfo").ok().and_then(|text| parse_slabinfo(&text)) {
        return Ok(KernelMemory { bytes: objects + buffers, method: Method::SocketObjects, sockets });
    }
    let slabs = parse_slab(&file("/proc/meminfo").map_err(refuse)?);
    let slabs = slabs.ok_or_else(|| refuse(std::io::ErrorKind::InvalidData.into()))?;
    Ok(KernelMemory { bytes: slabs + buffers, method: Method::AllSlabs, sockets })
}

/// `name <active_objs> <num_objs> <objsize> …`; merged caches are missing, so that the socket itself has to be there.
fn parse_slabinfo(text: &str) -> Option<u64> {
    let mut total = 0;
    let mut has_sockets = false;
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some(name) = fields.next().filter(|name| SOCKET_CACHES.contains(name)) else { continue };
        let active: u64 = fields.next()?.parse().ok()?;
        let size: u64 = fields.nth(1)?.parse().ok()?;
        let extra = if name == "sock_inode_cache" { DENTRY_BYTES } else { 0 };
        total += active * (size + extra);
        has_sockets |= name == "TCP";
    }
    has_sockets.then_some(total)
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0`
fn parse_sockstat(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    let mut fields = line.split_whitespace().skip_while(|field| *field != name);
    fields.nth(1)?.parse().ok()
}

fn parse_slab(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("Slab:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_socket_objects_are_summed() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> <objperslab>\n\
                    TCP   10  26   2000   13    8 : tunables\nsock_inode_cache 20 40 800 19 4 :\ndentry 9999 9999 192 21 1 :\n";
        assert_eq!(parse_slabinfo(text), Some(10 * 2000 + 20 * (800 + DENTRY_BYTES)));
        assert_eq!(parse_slabinfo("slabinfo\ndentry 1 1 192\n"), None);
    }

    #[test]
    fn buffers_and_slabs_are_parsed() {
        let text = "sockets: used 14\nTCP: inuse 1 orphan 0 tw 0 alloc 5 mem 37\nUDP: inuse 0 mem 0\n";
        assert_eq!((parse_sockstat(text, "mem"), parse_sockstat(text, "alloc")), (Some(37), Some(5)));
        assert_eq!(parse_slab("MemTotal: 1 kB\nSlab:  131728 kB\n"), Some(131_728 * 1024));
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(read().expect("readable").bytes > 0);
    }
}
