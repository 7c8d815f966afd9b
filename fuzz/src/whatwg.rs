//! An event stream as its client reads it, step by step from WHATWG HTML §9.2.6, and where one event has ended.

/// What a client has dispatched.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Vec<u8>,
    pub data: Vec<u8>,
    pub last_event_id: Vec<u8>,
}

/// The lines of a stream, each with whether its end has come: CR LF, LF or CR.
fn lines(stream: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut rest = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let mut lines = Vec::new();
    loop {
        let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            lines.push((rest, &[][..]));
            return lines;
        };
        let length = if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
        lines.push((&rest[..at], &rest[at..at + length]));
        rest = &rest[at + length..];
    }
}

/// The events of a stream that ends here.
pub fn events(stream: &[u8]) -> Vec<Event> {
    let (mut events, mut id) = (Vec::new(), Vec::new());
    let (mut kind, mut data) = (Vec::new(), Vec::new());
    for (line, end) in lines(stream) {
        // "If the file ends in the middle of an event, before the final empty line, the incomplete event is not dispatched."
        if end.is_empty() {
            break;
        }
        if line.is_empty() {
            let (kind, mut data) = (std::mem::take(&mut kind), std::mem::take(&mut data));
            if !data.is_empty() {
                data.pop();
                events.push(Event { kind, data, last_event_id: id.clone() });
            }
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => kind = value.to_vec(),
            b"data" => {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            b"id" if !value.contains(&0) => id = value.to_vec(),
            _ => {}
        }
    }
    events
}

/// Whether something may be put between two events after this prefix of a stream, and how many blocks with a field have
/// been ended by a blank line.
pub fn boundary(prefix: &[u8]) -> (bool, u64) {
    if prefix.is_empty() {
        return (true, 0);
    }
    if prefix.len() < 3 && b"\xEF\xBB\xBF".starts_with(prefix) {
        return (false, 0);
    }
    let lines = lines(prefix);
    let (mut blocks, mut open) = (0, false);
    for (line, end) in &lines {
        match line.first() {
            None if !end.is_empty() => {
                blocks += u64::from(open);
                open = false;
            }
            None | Some(b':') => {}
            Some(_) => open = true,
        }
    }
    let [.., (_, last_end), (tail, _)] = lines.as_slice() else { return (lines[0].0.is_empty(), 0) };
    // A CR at the very end may be half of a CR LF, save where the line before has shown that it is not.
    let before = lines.len().checked_sub(3).map(|at| lines[at].1);
    let settled = *last_end != b"\r" || before == Some(b"\r");
    (tail.is_empty() && !open && settled, blocks)
}
