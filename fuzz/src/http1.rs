//! HTTP/1.1 messages as RFC 9112 has them, read by splitting, with nothing taken that two readers could take differently.

use crate::chunked;

/// How strictly a head is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As a message that the proxy has made: only what the grammar has.
    Made,
    /// As a message that the proxy has received: also what a recipient may take, as long as it can only mean one thing
    /// (RFC 9112 §2.2: bare LF and empty lines in front; §5.1, §5.2 for responses: spaces before a colon, folded lines).
    Received,
}

/// A field line, its name in lower case.
pub type Field = (String, Vec<u8>);

/// What a message says of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

#[derive(Debug)]
pub struct Request<'a> {
    pub method: String,
    /// In origin-form, or `*`.
    pub target: Vec<u8>,
    pub http_1_1: bool,
    /// Of the target, where that is in absolute-form.
    pub host: Option<Vec<u8>>,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub rest: &'a [u8],
}

#[derive(Debug)]
pub struct Response<'a> {
    pub status: u16,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub rest: &'a [u8],
}

/// Why something is not read.
pub type Refusal = String;

/// The lines of a head without their ends, and what follows the blank line.
fn head(bytes: &[u8], reading: Reading) -> Result<(Vec<&[u8]>, &[u8]), Refusal> {
    let (mut lines, mut rest) = (Vec::new(), bytes);
    loop {
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else { return Err("no blank line".into()) };
        let line = match (rest[..at].strip_suffix(b"\r"), reading) {
            (Some(line), _) => line,
            (None, Reading::Received) => &rest[..at],
            (None, Reading::Made) => return Err("a line that ends in LF alone".into()),
        };
        rest = &rest[at + 1..];
        match (line.is_empty(), lines.is_empty(), reading) {
            (true, true, Reading::Received) => {}
            (true, true, Reading::Made) => return Err("an empty line in front".into()),
            (true, false, _) => return Ok((lines, rest)),
            (false, ..) => lines.push(line),
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Spaces and tabs taken off (OWS).
fn trim(bytes: &[u8]) -> &[u8] {
    let from = bytes.iter().position(|byte| !b" \t".contains(byte)).unwrap_or(bytes.len());
    let to = bytes.iter().rposition(|byte| !b" \t".contains(byte)).map_or(from, |at| at + 1);
    &bytes[from..to]
}

fn fields(lines: &[&[u8]], folds: bool, spaces: bool) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    for line in lines {
        if let Some(bad) = line.iter().find(|byte| (**byte < b' ' && **byte != b'\t') || **byte == 0x7f) {
            return Err(format!("byte {bad:#x} in a field line"));
        }
        if matches!(line[0], b' ' | b'\t') {
            match fields.last_mut() {
                Some((_, value)) if folds => {
                    value.push(b' ');
                    value.extend_from_slice(trim(line));
                    continue;
                }
                _ => return Err("a folded line".into()),
            }
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err("a field without colon".into());
        };
        let name = if spaces { trim(&line[..colon]) } else { &line[..colon] };
        if !is_token(name) {
            return Err(format!("field name {:?}", name.escape_ascii().to_string()));
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), trim(&line[colon + 1..]).to_vec()));
    }
    Ok(fields)
}

/// All values of a field.
pub fn all<'f>(fields: &'f [Field], name: &str) -> Vec<&'f [u8]> {
    fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
}

/// The members of a field that is a list.
pub fn list<'f>(fields: &'f [Field], name: &str) -> Vec<&'f [u8]> {
    let members = all(fields, name).into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    members.map(trim).filter(|member| !member.is_empty()).collect()
}

fn framing(fields: &[Field], otherwise: Framing, reading: Reading) -> Result<Framing, Refusal> {
    let (codings, mut lengths) = (list(fields, "transfer-encoding"), all(fields, "content-length"));
    if !all(fields, "transfer-encoding").is_empty() && codings.is_empty() {
        return Err("an empty transfer coding".into());
    }
    let lengths_in_lists = list(fields, "content-length");
    if reading == Reading::Received && lengths_in_lists.windows(2).all(|pair| same_number(pair[0], pair[1])) {
        lengths =
            lengths_in_lists.into_iter().take(1).chain(lengths.into_iter().filter(|value| value.is_empty())).collect();
    }
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(otherwise),
        ([], [length]) => {
            let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|text| text.parse().ok());
            length.map(Framing::Length).ok_or_else(|| "a length that is no number".into())
        }
        ([], _) => Err("several lengths".into()),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([_, ..], []) => Err("a coding other than chunked".into()),
        ([_, ..], [_, ..]) => Err("a coding and a length".into()),
    }
}

/// Whether two lengths are told as the same number, however many zeros each begins with.
fn same_number(one: &[u8], other: &[u8]) -> bool {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
    one == other || number(one).is_some_and(|one| number(other) == Some(one))
}

fn check_host(host: &[u8]) -> Result<(), Refusal> {
    // reg-name, IP-literal and port (RFC 3986 §3.2.2), not taken apart.
    match host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte)) {
        true => Ok(()),
        false => Err(format!("host {:?}", host.escape_ascii().to_string())),
    }
}

/// Reads a request's head.
///
/// # Errors
/// When it is none, or could be taken for two different ones.
pub fn request(bytes: &[u8], reading: Reading) -> Result<Request<'_>, Refusal> {
    let (lines, rest) = head(bytes, reading)?;
    let parts: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts.as_slice() else {
        return Err("a request line of other than three parts".into());
    };
    let http_1_1 = match *version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" if reading == Reading::Received => false,
        _ => return Err("another version".into()),
    };
    if !is_token(method) {
        return Err("a method that is no token".into());
    }
    if target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err("a byte that no target has".into());
    }
    let fields = fields(&lines[1..], false, false)?;
    let hosts = all(&fields, "host");
    match (hosts.as_slice(), http_1_1) {
        ([host], _) => check_host(host)?,
        ([], false) => {}
        ([], true) => return Err("no host".into()),
        _ => return Err("several hosts".into()),
    }
    let (host, target) = split_target(target, method, reading)?;
    let framing = framing(&fields, Framing::None, reading)?;
    if framing == Framing::Chunked && !http_1_1 {
        return Err("a coding in HTTP/1.0".into());
    }
    let method = String::from_utf8_lossy(method).into_owned();
    Ok(Request { method, target, http_1_1, host, fields, framing, rest })
}

fn split_target(target: &[u8], method: &[u8], reading: Reading) -> Result<(Option<Vec<u8>>, Vec<u8>), Refusal> {
    if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
        return Ok((None, target.to_vec()));
    }
    let scheme = target.iter().position(|byte| *byte == b':').filter(|_| reading == Reading::Received);
    let rest = scheme.and_then(|at| target[at..].strip_prefix(b"://").map(|rest| (&target[..at], rest)));
    let Some((scheme, rest)) = rest else { return Err("a target in another form".into()) };
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err("a target of another scheme".into());
    }
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    check_host(&rest[..end])?;
    let slash: &[u8] = if rest[end..].starts_with(b"/") { b"" } else { b"/" };
    Ok((Some(rest[..end].to_vec()), [slash, &rest[end..]].concat()))
}

/// Reads a response's head, to anything but HEAD.
///
/// # Errors
/// When it is none, or could be taken for two different ones.
pub fn response(bytes: &[u8], reading: Reading) -> Result<Response<'_>, Refusal> {
    let (lines, rest) = head(bytes, reading)?;
    let line = lines[0];
    let version = line.get(..9).unwrap_or_default();
    let known = version == b"HTTP/1.1 " || (version == b"HTTP/1.0 " && reading == Reading::Received);
    let digits = line.get(9..12).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let status = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let (true, Some(status)) = (known, status) else { return Err("no status line".into()) };
    let reason = &line[12..];
    if !(reason.is_empty() && reading == Reading::Received || reason.starts_with(b" "))
        || reason.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
    {
        return Err("a reason that is none".into());
    }
    let received = reading == Reading::Received;
    let mut fields = fields(&lines[1..], received, received)?;
    if received {
        // "Transfer-Encoding overrides the Content-Length" (RFC 9112 §6.3). A backend that says `identity`, or nothing,
        // says nothing.
        let is_nothing = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
        let says_nothing = |(name, value): &Field| {
            name == "transfer-encoding" && value.split(|byte| *byte == b',').all(|member| is_nothing(trim(member)))
        };
        fields.retain(|field| !says_nothing(field));
        if !all(&fields, "transfer-encoding").is_empty() {
            fields.retain(|(name, _)| name != "content-length");
        }
    }
    let framing = match status {
        100..=199 | 204 | 304 => Framing::None,
        _ => framing(&fields, Framing::UntilClose, reading)?,
    };
    Ok(Response { status, fields, framing, rest })
}

/// The whole body of a message, if it is there.
pub fn body(framing: &Framing, rest: &[u8]) -> Option<Vec<u8>> {
    match framing {
        Framing::None => Some(Vec::new()),
        Framing::UntilClose => Some(rest.to_vec()),
        Framing::Length(length) => rest.get(..usize::try_from(*length).ok()?).map(<[u8]>::to_vec),
        Framing::Chunked => {
            let decoded = chunked::decode(rest);
            matches!(decoded.end, chunked::End::Complete(_)).then_some(decoded.data)
        }
    }
}
