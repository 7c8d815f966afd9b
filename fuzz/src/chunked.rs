//! The chunked coding, read by splitting.

/// Longest extension or trailer section that the proxy takes.
const LIMIT: usize = 8 * 1024;

/// How far a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is complete; so many bytes belong to it.
    Complete(usize),
    /// It may go on.
    More,
    /// It cannot be one.
    Broken,
}

/// A body as far as it goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    pub data: Vec<u8>,
    pub trailer: Vec<u8>,
    pub end: End,
}

/// Reads a chunked body from the front of `wire`.
pub fn decode(wire: &[u8]) -> Decoded {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let (size, length, extension) = match size_line(&wire[at..]) {
            Ok(Some(line)) => line,
            Ok(None) => return Decoded { data, trailer: Vec::new(), end: End::More },
            Err(()) => return Decoded { data, trailer: Vec::new(), end: End::Broken },
        };
        at += length;
        if size == 0 {
            let (trailer, end) = trailers(&wire[at..], LIMIT - extension);
            let end = if let End::Complete(length) = end { End::Complete(at + length) } else { end };
            return Decoded { data, trailer, end };
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(wire.len() - at);
        data.extend_from_slice(&wire[at..at + here]);
        at += here;
        let after = &wire[at..];
        if (here as u64) < size || after.len() < 2 && b"\r\n".starts_with(after) {
            return Decoded { data, trailer: Vec::new(), end: End::More };
        }
        if !after.starts_with(b"\r\n") {
            return Decoded { data, trailer: Vec::new(), end: End::Broken };
        }
        at += 2;
    }
}

/// A chunk's size, the length of its line, and of the extension behind its first byte; `None` where it may go on.
fn size_line(wire: &[u8]) -> Result<Option<(u64, usize, usize)>, ()> {
    let end = wire.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let line = &wire[..end.unwrap_or(wire.len())];
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    let text = std::str::from_utf8(size).map_err(drop)?;
    let begins = extension.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'));
    if !begins || extension.len() > LIMIT + 1 || (size.is_empty() && !(line.is_empty() && end.is_none())) {
        return Err(());
    }
    let size = if size.is_empty() { 0 } else { u64::from_str_radix(text, 16).map_err(drop)? };
    match end {
        None => Ok(None),
        Some(at) if wire[at] == b'\n' => Err(()),
        Some(at) if at + 1 == wire.len() => Ok(None),
        Some(at) if wire[at + 1] != b'\n' => Err(()),
        Some(at) => Ok(Some((size, at + 2, extension.len().saturating_sub(1)))),
    }
}

fn trailers(wire: &[u8], limit: usize) -> (Vec<u8>, End) {
    let (mut section, mut at) = (Vec::new(), 0);
    loop {
        match &wire[at..] {
            [b'\r'] | [] => return (section, End::More),
            [b'\r', b'\n', ..] => return (section, End::Complete(at + 2)),
            [b'\r', ..] => return (section, End::Broken),
            rest => {
                let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                if section.len() + length > limit {
                    return (section, End::Broken);
                }
                section.extend_from_slice(&rest[..length]);
                at += length;
                if at == wire.len() {
                    return (section, End::More);
                }
            }
        }
    }
}
