//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): the header with which a proxy for TCP
//! reports the client's address, before anything else on a connection. Pure: takes bytes, however they are cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// How a header in text begins.
const V1: &[u8] = b"PROXY ";

/// The longest header in text, line end included (§2.1).
const MAX_V1_BYTES: usize = 107;

/// How a binary header begins: no request and no TLS record does.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length of a binary header before its addresses.
const V2_FIXED_BYTES: usize = 16;

/// The longest binary header that is read: addresses and extensions, such as the name in a client's certificate.
const MAX_V2_BYTES: usize = 4096;

/// Whether connections begin with a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ProxyProtocol {
    /// None does. A header is a malformed request.
    #[default]
    Off,
    /// They may.
    Optional,
    /// All do.
    Required,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes; 0 if there is none.
    pub length: usize,
    /// The client's address. `None` if the proxy reports none, because the connection is its own or is not TCP: then it
    /// is the socket's.
    pub source: Option<SocketAddr>,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// The first bytes are not a header, and the listener requires one.
    #[error(
        "the connection does not begin with a header of the PROXY protocol, which proxy_protocol: required asks for"
    )]
    Missing,
    /// The header is malformed, too long, or of another version.
    #[error("the header of the PROXY protocol is malformed, or longer than {MAX_V2_BYTES} bytes")]
    Malformed,
    /// The peer sent a header, and is not a trusted proxy.
    #[error("the peer sent a header of the PROXY protocol, and is not in trusted_proxies")]
    Untrusted,
    /// The header was not complete in time, or before the end of the connection.
    #[error("the header of the PROXY protocol was not complete within client.timeouts.header")]
    Unfinished,
}

impl Violation {
    /// Every name, for tables with a row for each.
    pub const NAMES: [&'static str; 4] =
        ["proxy_protocol_missing", "proxy_protocol_malformed", "proxy_protocol_untrusted", "proxy_protocol_unfinished"];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl ProxyProtocol {
    /// The header in front of what a peer has sent so far; `None` if more has to come. Only trusted peers may send one:
    /// anybody else could claim any address.
    ///
    /// # Errors
    /// Why the connection has to be closed.
    pub fn header(self, received: &[u8], is_trusted: bool) -> Result<Option<Header>, Violation> {
        const NONE: Header = Header { length: 0, source: None };
        let header = match self {
            Self::Off => return Ok(Some(NONE)),
            Self::Optional | Self::Required => parse(received)?,
        };
        match header {
            Parsed::Absent if self == Self::Required => Err(Violation::Missing),
            Parsed::Absent => Ok(Some(NONE)),
            Parsed::Partial => Ok(None),
            Parsed::Header(_) if !is_trusted => Err(Violation::Untrusted),
            Parsed::Header(header) => Ok(Some(header)),
        }
    }
}

enum Parsed {
    /// More bytes have to come.
    Partial,
    /// The bytes begin with something else.
    Absent,
    Header(Header),
}

fn parse(bytes: &[u8]) -> Result<Parsed, Violation> {
    let begins = |signature: &[u8]| bytes.starts_with(signature);
    let may_begin = |signature: &[u8]| bytes.len() < signature.len() && signature.starts_with(bytes);
    match () {
        () if begins(V1) => parse_v1(bytes),
        () if begins(V2) => parse_v2(bytes),
        () if may_begin(V1) || may_begin(V2) => Ok(Parsed::Partial),
        () => Ok(Parsed::Absent),
    }
}

/// `PROXY TCP4 192.0.2.7 198.51.100.1 56324 443` and a line end (§2.1).
fn parse_v1(bytes: &[u8]) -> Result<Parsed, Violation> {
    let within = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_V1_BYTES { Ok(Parsed::Partial) } else { Err(Violation::Malformed) };
    };
    let line = bytes[V1.len()..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(Violation::Malformed)?.split(' ');
    let protocol = words.next();
    if protocol == Some("UNKNOWN") {
        // "the receiver must ignore anything presented before the CRLF is found"
        return Ok(Parsed::Header(Header { length: end + 1, source: None }));
    }
    let words = [words.next(), words.next(), words.next(), words.next(), words.next()];
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] = words else {
        return Err(Violation::Malformed);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match protocol {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let parts = (address(source), port(source_port), address(destination), port(destination_port));
    let (Some(source), Some(port), Some(_), Some(_)) = parts else { return Err(Violation::Malformed) };
    Ok(Parsed::Header(Header { length: end + 1, source: Some(client(source, port)) }))
}

/// Version and command, family and transport, length, addresses, extensions (§2.2).
fn parse_v2(bytes: &[u8]) -> Result<Parsed, Violation> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else { return Ok(Parsed::Partial) };
    let [version_and_command, family_and_transport, high, low] = [fixed[12], fixed[13], fixed[14], fixed[15]];
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || length > MAX_V2_BYTES {
        return Err(Violation::Malformed);
    }
    let is_local = match version_and_command & 0xF {
        0 => true,
        1 => false,
        _ => return Err(Violation::Malformed),
    };
    let Some(rest) = bytes.get(V2_FIXED_BYTES..length) else { return Ok(Parsed::Partial) };
    let source = match (family_and_transport >> 4, family_and_transport & 0xF) {
        _ if is_local => None,
        // Source and destination address, source and destination port.
        (1, 1) => Some(addresses::<4, 12>(rest)?),
        (2, 1) => Some(addresses::<16, 36>(rest)?),
        // Unspecified, datagrams, unix sockets: "the receiver should use the real connection endpoints".
        (0..=3, 0..=2) => None,
        _ => return Err(Violation::Malformed),
    };
    Ok(Parsed::Header(Header { length, source }))
}

/// The source in a block of addresses of `N` bytes each, `ALL` bytes together with the ports.
fn addresses<const N: usize, const ALL: usize>(rest: &[u8]) -> Result<SocketAddr, Violation>
where
    IpAddr: From<[u8; N]>,
{
    let block = rest.first_chunk::<ALL>().ok_or(Violation::Malformed)?;
    let address = block.first_chunk::<N>().ok_or(Violation::Malformed)?;
    let port = u16::from_be_bytes([block[2 * N], block[2 * N + 1]]);
    Ok(client(IpAddr::from(*address), port))
}

fn client(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A binary header with this command, family and what follows.
    fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
        [V2, &[version_and_command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 5, 198, 51, 100, 1, 0x12, 0x34, 1, 0xBB];

    fn v6() -> Vec<u8> {
        let addresses = ["2001:db8::5", "2001:db8::1"].map(|text| text.parse::<Ipv6Addr>().expect("address").octets());
        [&addresses.concat()[..], &[0x12, 0x34, 1, 0xBB]].concat()
    }

    /// Headers, with the address that they report.
    fn valid() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let (v4, v6_text) = (Some("203.0.113.5:4660"), Some("[2001:db8::5]:4660"));
        let with_extensions = [&V4[..], &[4, 0, 1, 0], &[0; 700]].concat();
        vec![
            (b"PROXY TCP4 203.0.113.5 198.51.100.1 4660 443\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::5 2001:db8::1 4660 443\r\n".to_vec(), v6_text),
            (b"PROXY TCP6 ::ffff:203.0.113.5 ::ffff:198.51.100.1 4660 443\r\n".to_vec(), v4),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(), Some("255.255.255.255:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff what ever 65535 65535 more\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), v4),
            (v2(0x21, 0x21, &v6()), v6_text),
            (v2(0x21, 0x11, &with_extensions), v4),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x20, 0xFF, b"what ever"), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x12, &V4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x11, &[&V4[..], &[0; MAX_V2_BYTES - V2_FIXED_BYTES - 12]].concat()), v4),
        ]
    }

    #[test]
    fn a_header_is_read_however_it_is_cut_and_whatever_follows() {
        for (header, source) in valid() {
            let expected = Header { length: header.len(), source: source.map(|text| text.parse().expect("address")) };
            for mode in [ProxyProtocol::Optional, ProxyProtocol::Required] {
                for cut in 0..header.len() {
                    let what = header[..cut].escape_ascii();
                    assert_eq!(mode.header(&header[..cut], true), Ok(None), "{what}");
                    assert_eq!(mode.header(&header[..cut], false), Ok(None), "{what}");
                }
                for rest in [&b""[..], b"GET / HTTP/1.1\r\n", b"PROXY ", b"\x16\x03\x01", V2] {
                    let all = [&header, rest].concat();
                    assert_eq!(mode.header(&all, true), Ok(Some(expected)), "{}", all.escape_ascii());
                    assert_eq!(mode.header(&all, false), Err(Violation::Untrusted), "{}", all.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let text = |line: &str| format!("PROXY {line}\r\n").into_bytes();
        let mut cases = vec![
            b"PROXY TCP4 203.0.113.5 198.51.100.1 4660 443\n".to_vec(),
            format!("PROXY UNKNOWN {}", "a".repeat(MAX_V1_BYTES)).into_bytes(),
            v2(0x11, 0x11, &V4),
            v2(0x31, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &V4),
            v2(0x21, 0x11, &[0; MAX_V2_BYTES - V2_FIXED_BYTES + 1]),
            v2(0x20, 0x00, &[0; 65_535]),
        ];
        cases.extend(
            [
                "",
                "TCP4",
                "TCP5 203.0.113.5 198.51.100.1 4660 443",
                "tcp4 203.0.113.5 198.51.100.1 4660 443",
                "TCP4 203.0.113.5 198.51.100.1 4660",
                "TCP4 203.0.113.5 198.51.100.1 4660 443 ",
                "TCP4 203.0.113.5 198.51.100.1 4660 443 1",
                "TCP4  203.0.113.5 198.51.100.1 4660 443",
                "TCP4 203.0.113.5 198.51.100.1 65536 443",
                "TCP4 203.0.113.5 198.51.100.1 +466 443",
                "TCP4 203.0.113.5 198.51.100.1 -1 443",
                "TCP4 203.0.113.5 198.51.100.1  443",
                "TCP4 203.0.113.5 198.51.100.1 4660 x",
                "TCP4 203.0.113 198.51.100.1 4660 443",
                "TCP4 2001:db8::5 2001:db8::1 4660 443",
                "TCP6 203.0.113.5 198.51.100.1 4660 443",
                "TCP6 2001:db8::5%eth0 2001:db8::1 4660 443",
                "TCP4 203.0.113.5 nowhere 4660 443",
                "UNIX /run/a /run/b 0 0",
            ]
            .map(text),
        );
        for bytes in cases {
            for is_trusted in [true, false] {
                let found = ProxyProtocol::Required.header(&bytes, is_trusted);
                assert_eq!(found, Err(Violation::Malformed), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn a_connection_without_a_header_is_one_of_its_peer_if_that_is_allowed() {
        let none = Ok(Some(Header { length: 0, source: None }));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROPFIND / HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"\x16\x03\x01",
            b"\r\nGET /",
            b"proxy ",
        ] {
            for is_trusted in [true, false] {
                assert_eq!(ProxyProtocol::Optional.header(bytes, is_trusted), none, "{}", bytes.escape_ascii());
                assert_eq!(ProxyProtocol::Required.header(bytes, is_trusted), Err(Violation::Missing));
                assert_eq!(ProxyProtocol::Off.header(bytes, is_trusted), none);
            }
        }
        for bytes in [&b""[..], b"P", b"PRO", b"\r", b"\r\n"] {
            assert_eq!(ProxyProtocol::Optional.header(bytes, true), Ok(None), "it may still become one");
        }
        assert_eq!(ProxyProtocol::Off.header(b"PROXY TCP4 ", true), none);
    }

    /// Whatever the bytes are, more of them never change a decision, and nothing panics.
    #[test]
    fn a_decision_stands_whatever_follows() {
        let mut random = fastrand::Rng::with_seed(3);
        let headers = valid();
        for _ in 0..20_000 {
            let (mut bytes, _) = headers[random.usize(..headers.len())].clone();
            for _ in 0..random.usize(0..4) {
                let at = random.usize(..bytes.len().min(60));
                bytes[at] = random.u8(..);
            }
            let whole = ProxyProtocol::Optional.header(&bytes, true);
            for _ in 0..8 {
                let cut = random.usize(..=bytes.len());
                let part = ProxyProtocol::Optional.header(&bytes[..cut], true);
                assert!(part == Ok(None) || part == whole, "{cut}: {part:?} {whole:?} {}", bytes.escape_ascii());
            }
        }
    }
}
