//! Forwarding fields, which tell the upstream who the client is, and the peers that are trusted to send them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;
use pingora::ErrorType;
use pingora::OrErr;
use pingora::http::{HMap, RequestHeader};
use pingora::prelude::Result;

/// Every field that begins like this is about the connection between a client and a proxy.
const PREFIX: &[u8] = b"x-forwarded-";

/// Other fields in which proxies and CDNs report their client, and which backends are known to trust.
const FORWARDING_FIELDS: [&[u8]; 28] = [
    b"forwarded",
    b"x-forwarded",
    b"forwarded-for",
    b"forwarded-for-ip",
    b"x-real-ip",
    b"x-client-ip",
    b"client-ip",
    b"true-client-ip",
    b"x-cluster-client-ip",
    b"x-original-forwarded-for",
    b"x-original-host",
    b"x-original-proto",
    b"x-originating-ip",
    b"x-remote-ip",
    b"x-remote-addr",
    b"x-scheme",
    b"x-url-scheme",
    b"front-end-https",
    b"proxy-client-ip",
    b"x-envoy-external-address",
    b"x-azure-clientip",
    b"x-azure-socketip",
    b"x-appengine-user-ip",
    b"cf-connecting-ip",
    b"cf-connecting-ipv6",
    b"cf-pseudo-ipv4",
    b"fastly-client-ip",
    b"fly-client-ip",
];

/// With which [`PREFIX`] and [`FORWARDING_FIELDS`] begin.
const FIRST_LETTERS: &[u8] = b"xfctp";

/// The peers whose forwarding fields are trusted: proxies in front that overwrite what their own clients send. The default is
/// the loopback addresses.
///
/// These fields say who the client is: all `X-Forwarded-*`, `Forwarded`, `X-Real-IP`, and the like of CDNs and proxies
/// (`True-Client-IP`, `CF-Connecting-IP`, `X-Client-IP`, `X-Scheme`, `Front-End-Https`, …), in every spelling.
///
/// - From a trusted peer they are kept; its address is appended to `X-Forwarded-For` and, if it was sent, to `Forwarded`.
/// - From any other peer they are all removed, and `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `X-Real-IP` are set from its
///   connection, `Forwarded` too if it was sent.
///
/// Fields that your own `request_filter` has set are removed as well: they cannot be told from the client's. Set yours in
/// [`Hooks::upstream_request`](crate::Hooks::upstream_request), which runs afterwards.
///
/// ```
/// use sse_proxy::{IpNet, Takeover, TrustedProxies};
///
/// let networks: Vec<IpNet> = vec!["10.0.0.0/8".parse()?, "2001:db8::/32".parse()?];
/// let trusted = TrustedProxies::new(networks);
/// assert!(trusted.contains([10, 1, 2, 3].into()));
/// assert!(!trusted.contains([127, 0, 0, 1].into()), "in place of the default");
/// let takeover = Takeover::default().trusting(trusted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts peers in these networks only, not those on the loopback interface.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The networks.
    pub fn networks(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether a peer is trusted. An IPv4 address that a dual-stack socket reports as IPv6 counts as IPv4.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

impl TrustedProxies {
    /// Who sent a request: its peer, or the client that a trusted peer reports in `X-Forwarded-For`, otherwise in
    /// `X-Real-IP`. Of `X-Forwarded-For` it is the last address that is not a trusted proxy.
    #[doc(hidden)]
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HMap) -> Client {
        let via_trusted_proxy = peer.is_some_and(|peer| self.contains(peer.ip()));
        if !via_trusted_proxy {
            return Client { address: peer, via_trusted_proxy };
        }
        let reported = match headers.get("x-forwarded-for") {
            Some(_) => nearest_untrusted(headers, self),
            None => headers.get("x-real-ip").and_then(|value| hop_address(value.as_bytes())),
        };
        Client { address: reported.or(peer), via_trusted_proxy }
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address. The port is 0 if only a proxy knows it.
    pub address: Option<SocketAddr>,
    /// Whether its peer is a trusted proxy, whose fields are trusted.
    pub via_trusted_proxy: bool,
}

/// An address, without the port if only a proxy in front knows it.
pub fn shown_address(address: SocketAddr) -> String {
    match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    }
}

impl Default for TrustedProxies {
    /// The loopback addresses: a proxy on the same host.
    fn default() -> Self {
        let networks =
            [IpNet::new(IpAddr::from([127, 0, 0, 0]), 8), IpNet::new(std::net::Ipv6Addr::LOCALHOST.into(), 128)];
        Self(networks.into_iter().flatten().collect())
    }
}

/// Sets the fields that tell the upstream who the client is.
///
/// For a peer in `trusted`, appends its address to `X-Forwarded-For` and `Forwarded`, and adds the other fields that it
/// has not sent. For any other peer, removes every such field and sets them from its connection. Always removes
/// spellings that a gateway interface such as CGI or WSGI does not distinguish (`X_Forwarded_For`): no proxy sends
/// them.
///
/// # Errors
/// When a header cannot be built.
pub fn set_forwarded(
    request: &mut RequestHeader,
    peer: Option<IpAddr>,
    tls: bool,
    trusted: &TrustedProxies,
) -> Result<()> {
    let peer = peer.map(|peer| peer.to_canonical());
    let is_trusted = peer.is_some_and(|peer| trusted.contains(peer));
    let (kept, removed, was_forwarded) = sort_fields(request, is_trusted);
    for name in removed {
        request.remove_header(&name);
    }

    let (scheme, default_port) = if tls { ("https", 443) } else { ("http", 80) };
    let host = request.headers.get(header::HOST).cloned();
    // A proxy that sent any of these fields without a port means the scheme's default port.
    if !kept.proto && !kept.host && !kept.port {
        let port = host.as_ref().and_then(|host| port_of(host.as_bytes())).unwrap_or(default_port);
        request.insert_header("X-Forwarded-Port", HeaderValue::from(port))?;
    }
    if !kept.proto {
        request.insert_header("X-Forwarded-Proto", HeaderValue::from_static(scheme))?;
    }
    if let Some(host) = host.clone().filter(|_| !kept.host) {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    let Some(peer) = peer else { return Ok(()) };
    if !kept.real_ip {
        let client = if kept.hops { nearest_untrusted(&request.headers, trusted) } else { None };
        request.insert_header("X-Real-IP", address(client.map_or(peer, |client| client.ip()))?)?;
    }
    if kept.hops {
        append(request, "X-Forwarded-For", peer.to_string().as_bytes())?;
    } else {
        request.insert_header("X-Forwarded-For", address(peer)?)?;
    }
    if was_forwarded {
        append(request, "Forwarded", &element(peer, scheme, host.as_ref().map(|host| host.as_bytes())))?;
    }
    Ok(())
}

/// The forwarding fields of a trusted peer that [`set_forwarded`] extends or leaves.
#[derive(Default)]
struct Kept {
    proto: bool,
    host: bool,
    port: bool,
    real_ip: bool,
    /// `X-Forwarded-For`.
    hops: bool,
}

/// One pass over the fields: those that are kept, those to remove, and whether `Forwarded` was sent.
fn sort_fields(request: &RequestHeader, is_trusted: bool) -> (Kept, Vec<HeaderName>, bool) {
    let (mut kept, mut removed, mut was_forwarded) = (Kept::default(), Vec::new(), false);
    for name in request.headers.keys().filter(|name| is_forwarding_field(name.as_str())) {
        was_forwarded |= name == header::FORWARDED;
        if !is_trusted || !is_spelled_with_dashes(name.as_str()) {
            removed.push(name.clone());
            continue;
        }
        match name.as_str() {
            "x-forwarded-proto" => kept.proto = true,
            "x-forwarded-host" => kept.host = true,
            "x-forwarded-port" => kept.port = true,
            "x-forwarded-for" => kept.hops = true,
            "x-real-ip" => kept.real_ip = true,
            _ => {}
        }
    }
    (kept, removed, was_forwarded)
}

/// An address as the value of a field.
fn address(address: IpAddr) -> Result<HeaderValue> {
    let IpAddr::V4(address) = address else { return text(address.to_string().as_bytes()) };
    // `Display` costs more than everything else here.
    let (mut digits, mut length) = ([0; "255.255.255.255".len()], 0);
    let mut push = |byte| {
        digits[length] = byte;
        length += 1;
    };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    text(&digits[..length])
}

fn text(text: &[u8]) -> Result<HeaderValue> {
    HeaderValue::from_bytes(text).or_err(ErrorType::InvalidHTTPHeader, "invalid address")
}

/// Whether a field, in any spelling, is a forwarding field.
pub(super) fn is_forwarding_field(name: &str) -> bool {
    let name = name.as_bytes();
    // The first letter rules most fields out.
    if !name.first().is_some_and(|first| FIRST_LETTERS.contains(&first.to_ascii_lowercase())) {
        return false;
    }
    name.get(..PREFIX.len()).is_some_and(|start| is_spelling_of(start, PREFIX))
        || FORWARDING_FIELDS.iter().any(|field| is_spelling_of(name, field))
}

/// Whether a gateway interface maps the field to the same variable as `canonical`: letters and digits in upper case,
/// and everything else as an underscore (RFC 3875 §4.1.18, and common practice).
fn is_spelling_of(name: &[u8], canonical: &[u8]) -> bool {
    let same = |(byte, canonical): (&u8, &u8)| {
        byte.eq_ignore_ascii_case(canonical) || (*canonical == b'-' && !byte.is_ascii_alphanumeric())
    };
    name.len() == canonical.len() && name.iter().zip(canonical).all(same)
}

fn is_spelled_with_dashes(name: &str) -> bool {
    name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
}

/// The client as the trusted proxies in front report it: the last address of `X-Forwarded-For` that is not trusted.
fn nearest_untrusted(headers: &HMap, trusted: &TrustedProxies) -> Option<SocketAddr> {
    let fields = headers.get_all("x-forwarded-for").iter().rev();
    let hops = fields.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let mut nearest = None;
    // Entries before an invalid address cannot be trusted.
    for hop in hops.map_while(hop_address) {
        nearest = Some(hop);
        if !trusted.contains(hop.ip()) {
            break;
        }
    }
    nearest
}

/// An address in a list, with its port if it has one, as some load balancers add it.
fn hop_address(hop: &[u8]) -> Option<SocketAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let address = hop.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0)).or_else(|_| hop.parse()).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The port in a `Host` field.
fn port_of(host: &[u8]) -> Option<u16> {
    let (_, port) = std::str::from_utf8(host).ok()?.rsplit_once(':')?;
    port.parse().ok()
}

/// Appends to a list field and joins its lines.
fn append(request: &mut RequestHeader, name: &'static str, element: &[u8]) -> Result<()> {
    let mut list: Vec<u8> = Vec::new();
    for value in request.headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element);
    request.insert_header(name, list)
}

/// One hop in `Forwarded` (RFC 7239 §4).
fn element(peer: IpAddr, scheme: &str, host: Option<&[u8]>) -> Vec<u8> {
    let mut element = match peer {
        IpAddr::V4(peer) => format!("for={peer};proto={scheme}"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\";proto={scheme}"),
    }
    .into_bytes();
    if let Some(host) = host {
        element.extend_from_slice(b";host=\"");
        for byte in host {
            if matches!(byte, b'"' | b'\\') {
                element.push(b'\\');
            }
            element.push(*byte);
        }
        element.push(b'"');
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "127.0.0.1";
    const UNTRUSTED: &str = "192.0.2.7";

    #[test]
    fn every_octet_is_written_as_display_writes_it() {
        for octet in 0..=255 {
            let peer = IpAddr::from([octet, 255 - octet, 7, octet]);
            assert_eq!(address(peer).expect("value"), peer.to_string());
        }
    }

    #[test]
    fn no_forwarding_field_is_ruled_out_by_its_first_letter() {
        for field in FORWARDING_FIELDS.into_iter().chain([PREFIX]) {
            let name = std::str::from_utf8(field).expect("ASCII");
            assert!(is_forwarding_field(name) && is_forwarding_field(&name.to_ascii_uppercase()), "{name}");
        }
    }

    /// A description, the peer, whether over TLS, the fields sent, the fields forwarded.
    type Case = (&'static str, &'static str, bool, &'static [&'static str], &'static [&'static str]);

    /// The fields that an upstream gets, sorted, `name: value` each.
    fn forwarded(peer: &str, tls: bool, fields: &[&str]) -> Vec<String> {
        let mut request = RequestHeader::build("GET", b"/events", None).expect("request");
        for field in fields {
            let (name, value) = field.split_once(": ").expect("field");
            request.append_header(name.to_owned(), value).expect("header");
        }
        set_forwarded(&mut request, peer.parse().ok(), tls, &TrustedProxies::default()).expect("headers");
        let mut fields: Vec<String> =
            request.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        fields.sort();
        fields
    }

    #[test]
    fn forwarding_fields_of_trusted_peers_are_extended_and_others_replaced() {
        let cases: [Case; 7] = [
            (
                "fields of a proxy on this host are extended",
                PROXY,
                false,
                &["Host: a.b", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https"],
                &[
                    "host: a.b",
                    "x-forwarded-for: 10.0.0.1, 203.0.113.5, 127.0.0.1",
                    "x-forwarded-host: a.b",
                    "x-forwarded-proto: https",
                    "x-real-ip: 203.0.113.5",
                ],
            ),
            (
                "its other fields are kept",
                "::ffff:127.0.0.1",
                false,
                &["X-Real-IP: 203.0.113.5", "X-Forwarded-Port: 8443", "X-Forwarded-Prefix: /a", "Forwarded: for=a"],
                &[
                    "forwarded: for=a, for=127.0.0.1;proto=http",
                    "x-forwarded-for: 127.0.0.1",
                    "x-forwarded-port: 8443",
                    "x-forwarded-prefix: /a",
                    "x-forwarded-proto: http",
                    "x-real-ip: 203.0.113.5",
                ],
            ),
            (
                "its fields with other spellings are removed",
                PROXY,
                false,
                &["X_Forwarded_For: 6.6.6.6", "X-Forwarded_Proto: gopher", "True_Client_IP: 6.6.6.6"],
                &[
                    "x-forwarded-for: 127.0.0.1",
                    "x-forwarded-port: 80",
                    "x-forwarded-proto: http",
                    "x-real-ip: 127.0.0.1",
                ],
            ),
            (
                "fields of an untrusted peer are replaced",
                UNTRUSTED,
                true,
                &[
                    "Host: a.b:8443",
                    "X-Forwarded-For: 6.6.6.6",
                    "x-forwarded-proto: gopher",
                    "X-FORWARDED-HOST: evil.test",
                    "X-Forwarded-Port: 1",
                    "X-Forwarded-Prefix: /evil",
                    "X_Forwarded_For: 6.6.6.6",
                    "X.Forwarded.For: 6.6.6.6",
                    "X-Real-IP: 6.6.6.6",
                    "X_Real-Ip: 6.6.6.6",
                    "True-Client-IP: 6.6.6.6",
                    "CF-Connecting-IP: 6.6.6.6",
                    "Forwarded: for=6.6.6.6;host=evil.test",
                    "Cookie: a=b",
                    "Forwarder: kept",
                ],
                &[
                    "cookie: a=b",
                    "forwarded: for=192.0.2.7;proto=https;host=\"a.b:8443\"",
                    "forwarder: kept",
                    "host: a.b:8443",
                    "x-forwarded-for: 192.0.2.7",
                    "x-forwarded-host: a.b:8443",
                    "x-forwarded-port: 8443",
                    "x-forwarded-proto: https",
                    "x-real-ip: 192.0.2.7",
                ],
            ),
            (
                "ports are those of the request",
                "2001:db8::1",
                true,
                &["Host: [2001:db8::2]", "Forwarded: for=a", "Forwarded: for=b"],
                &[
                    "forwarded: for=\"[2001:db8::1]\";proto=https;host=\"[2001:db8::2]\"",
                    "host: [2001:db8::2]",
                    "x-forwarded-for: 2001:db8::1",
                    "x-forwarded-host: [2001:db8::2]",
                    "x-forwarded-port: 443",
                    "x-forwarded-proto: https",
                    "x-real-ip: 2001:db8::1",
                ],
            ),
            (
                "entries before an invalid address are not trusted",
                PROXY,
                false,
                &["X-Forwarded-For: 6.6.6.6, unknown, 127.0.0.2", "X-Forwarded-Host: a"],
                &[
                    "x-forwarded-for: 6.6.6.6, unknown, 127.0.0.2, 127.0.0.1",
                    "x-forwarded-host: a",
                    "x-forwarded-proto: http",
                    "x-real-ip: 127.0.0.2",
                ],
            ),
            (
                "a peer without an address is untrusted",
                "",
                false,
                &["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"],
                &["x-forwarded-port: 80", "x-forwarded-proto: http"],
            ),
        ];
        for (what, peer, tls, sent, expected) in cases {
            assert_eq!(forwarded(peer, tls, sent), expected, "{what}");
        }
    }

    #[test]
    fn the_client_is_who_the_trusted_proxies_report() {
        let peers = [PROXY, UNTRUSTED].map(|peer| format!("{peer}:9"));
        let (proxy, untrusted) = (peers[0].as_str(), peers[1].as_str());
        let cases: [(&str, &[&str], &str); 11] = [
            (untrusted, &["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"], untrusted),
            (proxy, &[], proxy),
            (proxy, &["X-Forwarded-For: 6.6.6.6, 203.0.113.5", "X-Real-IP: 6.6.6.6"], "203.0.113.5:0"),
            (proxy, &["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.5"], "203.0.113.5:0"),
            (proxy, &["X-Forwarded-For: 203.0.113.5, 127.0.0.2, ::1"], "203.0.113.5:0"),
            (proxy, &["X-Forwarded-For: 127.0.0.3, 127.0.0.2"], "127.0.0.3:0"),
            (proxy, &["X-Forwarded-For: 203.0.113.5:4711"], "203.0.113.5:4711"),
            (proxy, &["X-Forwarded-For: 6.6.6.6, [2001:db8::5]:4711"], "[2001:db8::5]:4711"),
            (proxy, &["X-Forwarded-For: ::ffff:203.0.113.5"], "203.0.113.5:0"),
            (proxy, &["X-Forwarded-For: 6.6.6.6, unknown", "X-Real-IP: 203.0.113.5"], proxy),
            (proxy, &["X-Real-IP: 203.0.113.5"], "203.0.113.5:0"),
        ];
        for (peer, fields, expected) in cases {
            let mut request = RequestHeader::build("GET", b"/events", None).expect("request");
            for field in fields {
                let (name, value) = field.split_once(": ").expect("field");
                request.append_header(name.to_owned(), value).expect("header");
            }
            let client = TrustedProxies::default().client(peer.parse().ok(), &request.headers);
            let expected = Client { address: expected.parse().ok(), via_trusted_proxy: peer == proxy };
            assert_eq!(client, expected, "{peer} {fields:?}");
        }
    }

    #[test]
    fn quotes_in_a_host_do_not_end_the_element() {
        let element = element(IpAddr::from([192, 0, 2, 7]), "http", Some(b"a\";for=\\"));
        assert_eq!(element, br#"for=192.0.2.7;proto=http;host="a\";for=\\""#);
    }
}
