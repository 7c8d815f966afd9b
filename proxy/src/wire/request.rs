//! HTTP/1 request heads (RFC 9112): one strict parser for every request path of the proxy.
//!
//! Pure: takes bytes; returns incomplete, a head with its length, or a refusal with its status. Refuses what servers
//! behind the proxy may interpret differently. httparse splits the fields; the rules are here.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use httparse::Header;

use super::refusal::Refusal;

/// The most fields that [`HeadLimits::fields`] may allow.
pub const MAX_FIELDS: usize = 256;

/// Longer than every registered method.
const MAX_METHOD_BYTES: usize = 32;

/// Options that one `Connection` field may list, less one; the limit of Pingora's own check behind this one.
const MAX_CONNECTION_OPTIONS: usize = 10;

/// Fields that `Connection` must not name: a client could have them removed from the request.
const PROTECTED: [&[u8]; 4] = [b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];

/// Room for the fields of one head.
pub type FieldBuffer<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Limits on a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Longest request target, in bytes.
    pub target_bytes: usize,
    /// Longest head, from the request line to the empty line, in bytes.
    pub head_bytes: usize,
    /// Most fields; at most [`MAX_FIELDS`].
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { target_bytes: 8 * 1024, head_bytes: 32 * 1024, fields: 100 }
    }
}

/// How a request's body is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes follow the head.
    Length(u64),
    /// Chunks follow the head.
    Chunked,
}

/// A complete head that meets every rule.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'h, 'b> {
    /// Bytes from the start of the input to the end of the head, empty lines in front included.
    pub length: usize,
    /// A token.
    pub method: &'b str,
    /// In origin-form, absolute-form or asterisk-form.
    pub target: &'b [u8],
    /// Whether the version is HTTP/1.0; otherwise it is HTTP/1.1.
    pub is_http_10: bool,
    /// What delimits the body.
    pub body: BodyLength,
    /// Whether the client offers to switch to another protocol.
    pub offers_upgrade: bool,
    /// Number of fields whose names have an underscore. They are not forwarded, and [`RequestHead::fields`] omits them.
    pub dropped_fields: usize,
    /// Whether there is a host, and no field affects the message or the connection except the length and keep-alive.
    pub is_plain: bool,
    /// Whether the length is repeated, or written as a list.
    repeats_length: bool,
    fields: &'h [Header<'b>],
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Parses the head at the front of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// When the request must not be served, as soon as that is certain. A head that is refused is refused for the same reason
    /// however it is split.
    pub fn parse(
        bytes: &'b [u8],
        limits: &HeadLimits,
        fields: &'h mut FieldBuffer<'b>,
    ) -> Result<Option<Self>, Refusal> {
        let allowed = &bytes[..bytes.len().min(limits.head_bytes)];
        let too_large = bytes.len() >= limits.head_bytes;
        let incomplete = || if too_large { Err(Refusal::HeadTooLarge) } else { Ok(None) };
        let Some((method, target, is_http_10)) = request_line(allowed, limits)? else { return incomplete() };
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(allowed, &mut fields[..limits.fields.min(MAX_FIELDS)]) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return incomplete(),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyFields),
            Err(_) => return Err(Refusal::Field),
        };
        let mut rules = Rules { is_http_10, ..Rules::default() };
        for field in request.headers.iter() {
            rules.field(field)?;
        }
        let body = rules.body()?;
        if matches!(method, "CONNECT" | "TRACE") {
            return Err(Refusal::Method);
        }
        check_target(method, target, rules.host)?;
        Ok(Some(Self {
            length,
            method,
            target,
            is_http_10,
            body,
            offers_upgrade: rules.offers_upgrade(),
            dropped_fields: rules.dropped_fields,
            is_plain: !rules.affects_message && rules.lengths < 2 && rules.host.is_some_and(|host| !host.is_empty()),
            repeats_length: rules.lengths > 1,
            fields: request.headers,
        }))
    }

    /// The fields that are forwarded.
    pub fn fields(&self) -> impl Iterator<Item = &Header<'b>> {
        self.fields.iter().filter(|field| self.dropped_fields == 0 || !is_dropped(field.name))
    }

    /// Whether the head is forwarded as it was received.
    pub fn is_unchanged(&self) -> bool {
        self.dropped_fields == 0 && !self.repeats_length
    }

    /// Appends the head as it is forwarded: without dropped fields, and with one `Content-Length`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = |parts: &[&[u8]]| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            out.extend_from_slice(b"\r\n");
        };
        let version = if self.is_http_10 { b"HTTP/1.0" } else { b"HTTP/1.1" };
        line(&[self.method.as_bytes(), b" ", self.target, b" ", version]);
        for field in self.fields().filter(|field| !self.repeats_length || !is(field, "content-length")) {
            line(&[field.name.as_bytes(), b": ", field.value]);
        }
        if let (true, BodyLength::Length(length)) = (self.repeats_length, self.body) {
            line(&[b"Content-Length: ", length.to_string().as_bytes()]);
        }
        line(&[]);
    }
}

/// The method, the target, and whether the version is 1.0.
type Line<'b> = (&'b str, &'b [u8], bool);

/// The parts of the request line; `None` where the line is not complete.
fn request_line<'b>(bytes: &'b [u8], limits: &HeadLimits) -> Result<Option<Line<'b>>, Refusal> {
    // "A server that is expecting to receive and parse a request-line SHOULD ignore at least one empty line" (RFC 9112 §2.2).
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let line = &bytes[start..];
    if line.first() == Some(&0x16) {
        return Err(Refusal::TlsOnPlainPort);
    }
    let method = &line[..line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len())];
    if method.len() > MAX_METHOD_BYTES {
        return Err(Refusal::RequestLine);
    }
    let Some((end, rest)) = line[method.len()..].split_first() else { return Ok(None) };
    if method.is_empty() || *end != b' ' {
        return Err(Refusal::RequestLine);
    }
    let target = &rest[..rest.iter().position(|byte| !is_target_byte(*byte)).unwrap_or(rest.len())];
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let Some((end, version)) = rest[target.len()..].split_first() else { return Ok(None) };
    match end {
        b' ' if !target.is_empty() => {}
        b' ' | b'\r' | b'\n' => return Err(Refusal::RequestLine),
        _ => return Err(Refusal::Target),
    }
    let is_http_10 = match version.iter().zip(b"HTTP/d.d\r").position(|(byte, wanted)| match wanted {
        b'd' => !byte.is_ascii_digit(),
        // A bare LF ends a line as well (RFC 9112 §2.2).
        b'\r' => !b"\r\n".contains(byte),
        wanted => byte != wanted,
    }) {
        Some(_) => return Err(Refusal::RequestLine),
        None if version.len() < 9 => return Ok(None),
        None => match &version[5..8] {
            b"1.1" => false,
            b"1.0" => true,
            _ => return Err(Refusal::Version),
        },
    };
    // Tokens are ASCII.
    let method = std::str::from_utf8(method).map_err(|_| Refusal::RequestLine)?;
    Ok(Some((method, target, is_http_10)))
}

/// The rules' state after the fields so far.
#[derive(Default)]
struct Rules<'b> {
    is_http_10: bool,
    host: Option<&'b [u8]>,
    /// Codings of the body.
    codings: usize,
    ends_chunked: bool,
    all_chunked: bool,
    length: Option<u64>,
    /// The number of length values.
    lengths: usize,
    options: usize,
    /// Whether a field affects the framing, or the handling of the connection.
    affects_message: bool,
    /// Whether `Connection` has the option `upgrade`.
    names_upgrade: bool,
    /// Whether `Upgrade` names a protocol other than HTTP/2.
    names_protocol: bool,
    dropped_fields: usize,
}

impl<'b> Rules<'b> {
    fn field(&mut self, field: &Header<'b>) -> Result<(), Refusal> {
        if is_dropped(field.name) {
            self.dropped_fields += 1;
            return Ok(());
        }
        // The first letter rules most fields out.
        match field.name.as_bytes().first().map(u8::to_ascii_lowercase) {
            Some(b't') if is(field, "trailer") => self.affects_message = true,
            Some(b'e') if is(field, "expect") => self.affects_message = true,
            Some(b'p') if is(field, "proxy-connection") => self.affects_message = true,
            Some(b'h') if is(field, "host") => {
                let is_second = self.host.replace(field.value).is_some();
                return if is_second || !is_host(field.value) { Err(Refusal::Host) } else { Ok(()) };
            }
            Some(b't') if is(field, "transfer-encoding") => {
                for coding in list(field.value) {
                    self.ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
                    self.all_chunked = self.ends_chunked && (self.all_chunked || self.codings == 0);
                    self.codings += 1;
                }
                // An empty list counts as an unknown coding.
                self.codings = self.codings.max(1);
                self.affects_message = true;
            }
            Some(b'c') if is(field, "content-length") => {
                for number in field.value.split(|byte| *byte == b',') {
                    let number = decimal(number.trim_ascii()).ok_or(Refusal::ContentLength)?;
                    if self.length.replace(number).is_some_and(|other| other != number) {
                        return Err(Refusal::ContentLength);
                    }
                    self.lengths += 1;
                }
            }
            Some(b'c') if is(field, "connection") => {
                for option in list(field.value) {
                    self.options += 1;
                    self.names_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    let is_token = option.iter().all(|byte| is_token_byte(*byte));
                    let is_protected = PROTECTED.iter().any(|name| option.eq_ignore_ascii_case(name));
                    if !is_token || is_protected || self.options >= MAX_CONNECTION_OPTIONS {
                        return Err(Refusal::Connection);
                    }
                }
            }
            // An offer of HTTP/2 is ignored (RFC 9113 §3.1), so the request stays plain.
            Some(b'u') if is(field, "upgrade") && !field.value.eq_ignore_ascii_case(b"h2c") => {
                let is_other = |protocol: &[u8]| !protocol.eq_ignore_ascii_case(b"h2c");
                self.names_protocol |= field.value.is_ascii() && list(field.value).any(is_other);
                self.affects_message = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// "A sender of Upgrade MUST also send an "Upgrade" connection option", and in HTTP/1.0 the field is ignored
    /// (RFC 9110 §7.8).
    fn offers_upgrade(&self) -> bool {
        self.names_upgrade && self.names_protocol && !self.is_http_10
    }

    fn body(&self) -> Result<BodyLength, Refusal> {
        if self.host.is_none() && !self.is_http_10 {
            return Err(Refusal::Host);
        }
        if self.codings == 0 {
            return Ok(BodyLength::Length(self.length.unwrap_or(0)));
        }
        if self.length.is_some() {
            return Err(Refusal::TwoLengths);
        }
        match (self.all_chunked, self.codings) {
            _ if self.is_http_10 || !self.ends_chunked => Err(Refusal::TransferEncoding),
            (true, 1) => Ok(BodyLength::Chunked),
            (true, _) => Err(Refusal::TransferEncoding),
            (false, _) => Err(Refusal::TransferCoding),
        }
    }
}

/// Whether `http::Uri` accepts the target; browsers percent-encode the bytes that it does not.
fn is_held(target: &[u8]) -> bool {
    let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
    memchr::memchr3(b'<', b'>', b'`', path).is_none() && memchr::memchr3(b'<', b'>', b'"', query).is_none()
}

/// RFC 9112 §3.2. An absolute target must have the same host as `Host`: servers differ in which of the two they use.
fn check_target(method: &str, target: &[u8], host: Option<&[u8]>) -> Result<(), Refusal> {
    if !is_held(target) {
        return Err(Refusal::Target);
    }
    if target.starts_with(b"/") || (target == b"*" && method == "OPTIONS") {
        return Ok(());
    }
    let after = |scheme: &str| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    };
    let rest = after("http://").or_else(|| after("https://")).ok_or(Refusal::Target)?;
    let authority = rest.split(|byte| b"/?".contains(byte)).next().unwrap_or_default();
    if authority.is_empty() || !is_host(authority) {
        return Err(Refusal::Target);
    }
    if host.is_some_and(|host| host != authority) { Err(Refusal::Host) } else { Ok(()) }
}

/// Whether `value` is a valid `Host`: `uri-host [ ":" port ]` (RFC 9110 §7.2). Empty if the target has no authority; a port alone is invalid.
pub fn is_host(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    let (host, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let literal = std::str::from_utf8(&rest[..end]).ok();
            if literal.and_then(|literal| literal.parse::<Ipv6Addr>().ok()).is_none() {
                return false;
            }
            (&b"[]"[..], &rest[end + 1..])
        }
        None => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let is_port = port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit) && port.len() <= 6);
    !host.is_empty() && is_port && (host == b"[]" || is_registered_name(host))
}

/// `reg-name` (RFC 3986 §3.2.2).
fn is_registered_name(mut name: &[u8]) -> bool {
    while let Some((byte, rest)) = name.split_first() {
        name = match byte {
            b'%' if rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit) => &rest[2..],
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
    true
}

/// Whether a field is dropped: servers that map `-` to `_` (CGI) would take it for another one. nginx drops these, too.
fn is_dropped(name: &str) -> bool {
    memchr::memchr(b'_', name.as_bytes()).is_some()
}

fn is(field: &Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

/// The members of a list that are not empty (RFC 9110 §5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The bytes of a target: visible characters except `#`, since a fragment is never sent (RFC 9110 §4.2.5). Bytes beyond
/// ASCII and some of ASCII should be percent-encoded; clients send them, and they are unambiguous.
fn is_target_byte(byte: u8) -> bool {
    byte > b' ' && byte != b'#' && byte != 0x7f
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
