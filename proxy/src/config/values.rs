//! Types of values: durations with units, sizes, percentages, addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Longest valid duration: more than a year is probably a typing error.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// An optional time limit: `15s`, `5m`, `250ms`, `1h 30m`, or `0` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Duration);

impl Limit {
    /// A limit of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// No limit.
    pub const fn none() -> Self {
        Self(Duration::ZERO)
    }

    /// The limit, if there is one.
    pub fn get(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "0" {
            return Ok(Self::none());
        }
        let without_unit = text.trim().parse::<f64>().is_ok_and(|number| number > 0.0);
        let example = if without_unit { format!("{}s", text.trim()) } else { "15s, 5m or 250ms".to_owned() };
        let remedy = format!("write a number with a unit, such as {example}; 0 disables it");
        let duration =
            humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a valid duration: {remedy}"))?;
        if duration > LONGEST {
            return Err(format!("`{text}` is longer than a year: {remedy}"));
        }
        if !duration.is_zero() && duration < Duration::from_millis(1) {
            return Err(format!("`{text}` is shorter than a millisecond: {remedy}"));
        }
        Ok(Self(duration))
    }
}

/// A size in bytes: `8KiB`, `1MiB`, `900`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(usize);

impl Size {
    /// A size in units of 1,024 bytes.
    pub const fn kib(count: usize) -> Self {
        Self(count * 1024)
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 20) => write!(formatter, "{}MiB", bytes >> 20),
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 10) => write!(formatter, "{}KiB", bytes >> 10),
            bytes => write!(formatter, "{bytes}"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("", 1)];
        let number = units.iter().find_map(|(unit, factor)| {
            let number = text.trim().strip_suffix(unit)?.trim_end().parse::<usize>().ok()?;
            number.checked_mul(*factor)
        });
        let remedy = "write a number of bytes, or one with a unit, such as 8KiB or 1MiB";
        number.map(Self).ok_or_else(|| format!("`{text}` is not a valid size: {remedy}"))
    }
}

/// A percentage from 0 to 100: `20%` or `20`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
        number
            .filter(|number| (0.0..=100.0).contains(number))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a valid percentage: write one from 0% to 100%"))
    }
}

/// A server of an upstream: `host:port`, `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether connections to it use TLS.
    pub tls: bool,
}

impl Server {
    /// The address, if the host is a literal address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail =
            |why: &str| format!("`{text}` is not a valid server: {why}; write host:port, such as 127.0.0.1:3000");
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(fail(&format!("`{scheme}` is not http or https"))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return Err(fail("it has a path, and requests keep the client's path"));
        }
        let default_port = text.contains("://").then_some(if tls { 443 } else { 80 });
        let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match (bracketed, rest.rsplit_once(':')) {
            (Some((host, port)), _) => (host, port.strip_prefix(':')),
            (None, Some((host, port))) => (host, Some(port)),
            (None, None) => (rest, None),
        };
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| fail("its port is not a number from 1 to 65535"))?,
            None => default_port.ok_or_else(|| fail("it has no port"))?,
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || (host.parse::<IpAddr>().is_err() && !host.bytes().all(named)) {
            return Err(fail("its host is neither a name nor an address"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

/// An address or a network: `10.0.0.7`, `10.0.0.0/8`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| {
            format!("`{text}` is not an address or a network: write one such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32")
        })?;
        if network.addr() != network.network() {
            return Err(format!("`{text}` has bits beyond its prefix length: write {}", network.trunc()));
        }
        if matches!(network.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            return Err(format!("`{text}` is an IPv4 network written as IPv6: write it as IPv4, such as 10.0.0.0/8"));
        }
        Ok(Self(network))
    }
}

/// Whether a listener's address has a host and a port. Whether the host exists is checked when it is bound.
pub(super) fn is_listen_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ']),
    };
    is_host && port.parse::<u16>().is_ok()
}

/// Whether a listener's address is reachable from this machine only.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical().is_loopback())
}

/// Whether a listener's address is every address of this machine.
pub(super) fn is_unspecified(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|host| host.to_canonical().is_unspecified())
}

/// A duration as the file writes it.
pub(super) fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Whether a connection to `server` would reach the listener with this address. Resolves no name but `localhost`.
pub(super) fn is_reached_at(listen: &str, server: &Server) -> bool {
    let Some((host, port)) = listen.rsplit_once(':') else { return false };
    if port.parse() != Ok(server.port) || server.port == 0 {
        return false;
    }
    let addresses = |host: &str| -> Vec<IpAddr> {
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]
            }
            Err(_) => Vec::new(),
        }
    };
    let (own, theirs) = (addresses(host), addresses(&server.host));
    host.eq_ignore_ascii_case(&server.host)
        || own.iter().any(|own| theirs.contains(own) || (own.is_unspecified() && theirs.iter().any(is_local)))
}

/// Whether an address belongs to this machine, so that a socket can be bound to it.
fn is_local(address: &IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || std::net::UdpSocket::bind((*address, 0)).is_ok()
}

/// Reads a list.
pub(super) fn list<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(items))
        }
    }
    // `deserialize_seq` would take a key without a value for an empty list.
    deserializer.deserialize_any(List(expecting, PhantomData))
}

/// Reads a list with at least one item, or one item that needs no brackets.
pub(super) fn one_or_list<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct OneOrList<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrList<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<Vec<T>, E> {
            T::deserialize(value.into_deserializer()).map(|item| vec![item])
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Vec<T>, E> {
            T::deserialize(number.into_deserializer()).map(|item| vec![item])
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Vec<T>, E> {
            T::deserialize(number.into_deserializer()).map(|item| vec![item])
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|item| vec![item])
        }

        fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(entries)).map(|item| vec![item])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<T>, A::Error> {
            let items = Vec::deserialize(SeqAccessDeserializer::new(items))?;
            match items.is_empty() {
                true => Err(A::Error::custom("`[]` is an empty list: name at least one, or leave the key out")),
                false => Ok(items),
            }
        }
    }
    deserializer.deserialize_any(OneOrList(expecting, PhantomData))
}

/// Reads a map with names of the user's choice.
pub(super) fn by_name<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ByName<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<BTreeMap<String, T>, A::Error> {
            BTreeMap::deserialize(MapAccessDeserializer::new(entries))
        }
    }
    // `deserialize_map` would take a key without a value for an empty map.
    deserializer.deserialize_any(ByName(expecting, PhantomData))
}

/// Reads a scalar, text or number, through [`FromStr`].
pub(super) fn from_scalar<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    struct Scalar<T>(&'static str, PhantomData<T>);
    impl<T: FromStr<Err = String>> Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(Scalar(expecting, PhantomData))
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer, "a duration such as 15s, 5m or 250ms, or 0")
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer, "an address or a network such as 10.0.0.0/8")
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer, "a size such as 8KiB")
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer, "a percentage such as 20%")
    }
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_scalar(deserializer, "a server such as 127.0.0.1:3000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("1h 30m".parse::<Limit>().map(Limit::get), Ok(Some(Duration::from_secs(5400))));
        assert_eq!("0".parse::<Limit>().map(Limit::get), Ok(None));
        for bad in ["15", "-1s", "fast", "", "1us", "99999h"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn servers_are_read_with_and_without_a_scheme() {
        let server = |host: &str, port, tls| Ok(Server { host: host.to_owned(), port, tls });
        assert_eq!("127.0.0.1:3000".parse(), server("127.0.0.1", 3000, false));
        assert_eq!("http://app:80/".parse(), server("app", 80, false));
        assert_eq!("https://api.example.com".parse(), server("api.example.com", 443, true));
        assert_eq!("[::1]:3000".parse(), server("::1", 3000, false));
        for bad in ["app", "app:0", "app:x", ":80", "ftp://app:21", "http://app/path", "a b:80", "app:99999"] {
            assert!(bad.parse::<Server>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_listen_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:0", "0.0.0.0:8080", "[::]:80", "localhost:8080"] {
            assert!(is_listen_address(good), "{good:?}");
        }
        for bad in ["8080", ":8080", "127.0.0.1", "::1:80", "[x]:80", "http://a:80", "a:99999", "a:b"] {
            assert!(!is_listen_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn networks_have_no_bits_beyond_their_prefix() {
        for good in ["10.0.0.7", "10.0.0.0/8", "0.0.0.0/0", "::1", "2001:db8::/32"] {
            assert!(good.parse::<Network>().is_ok(), "{good:?}");
        }
        for bad in ["10.1.0.0/8", "10.0.0.0/33", "10.0.0", "::ffff:10.0.0.0/104", "localhost", "10.0.0.0/255.0.0.0", ""]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_with_binary_units() {
        for (text, bytes) in [("8KiB", 8192), ("1 MiB", 1 << 20), ("900", 900), ("0", 0)] {
            let size: Size = text.parse().expect(text);
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for bad in ["8KB", "8k", "-1", "", "KiB", "1.5MiB", "99999999999999MiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn percentages_stay_within_a_hundred() {
        assert_eq!("20%".parse(), Ok(Percent(20.0)));
        assert_eq!("5".parse(), Ok(Percent(5.0)));
        for bad in ["101%", "-1", "x", "NaN"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad:?}");
        }
    }
}
