//! Responses as they are forwarded, streams and pages: whatever the proxy takes from an upstream and sends on is a head that a strict reader
//! takes for what a careful reader takes the upstream's for, and the body is where both say that it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_proxy::takeover::fuzzing::response;
use sse_proxy::wire::body::Body;
use sse_proxy::wire::chunked::Piece;
use sse_proxy_fuzz::http1::{self, Framing, Reading, Response, all};

/// Fields that the proxy writes itself.
const OWN: [&str; 6] = ["cache-control", "connection", "incremental", "transfer-encoding", "via", "x-accel-buffering"];

/// The same for pages.
const PAGES_OWN: [&str; 2] = ["transfer-encoding", "via"];

/// Fields that belong to one connection.
const HOP_BY_HOP: [&str; 6] = ["keep-alive", "proxy-connection", "te", "trailer", "upgrade", "content-length"];

fuzz_target!(|bytes: &[u8]| {
    let Some(forwarded) = response(bytes) else { return };
    let mut rest = bytes;
    let mut heads = forwarded.heads.iter();
    let last = loop {
        let came = http1::response(rest, Reading::Received)
            .unwrap_or_else(|refusal| panic!("taken: {refusal}: {}", bytes.escape_ascii()));
        rest = came.rest;
        if came.status == 100 {
            continue;
        }
        let head = heads.next().unwrap_or_else(|| panic!("a head is lost: {}", bytes.escape_ascii()));
        if let Err(what) = check(&came, head, forwarded.is_stream) {
            panic!("{what}\n received {}\nforwarded {}", bytes.escape_ascii(), head.escape_ascii());
        }
        if came.status >= 200 {
            break came;
        }
    };
    let leftover = forwarded.leftover;
    assert_eq!(leftover, rest, "what came with the head of {}", bytes.escape_ascii());
    let Some(mut body) = forwarded.body else {
        assert!(matches!(last.status, 204 | 205 | 304), "a body is lost: {}", bytes.escape_ascii());
        return;
    };
    let same = match (&last.framing, &body) {
        (Framing::Chunked, Body::Chunked(_)) | (Framing::UntilClose, Body::UntilClose) => true,
        (Framing::Length(told), Body::Length(kept)) => told == kept,
        _ => false,
    };
    assert!(same, "{:?} is read as {body:?}: {}", last.framing, bytes.escape_ascii());
    let (mut input, mut decoded) = (leftover.as_slice(), Vec::new());
    while let Ok(Some(piece)) = body.next(&mut input) {
        match piece {
            Piece::Data(data) => decoded.extend_from_slice(data),
            Piece::Trailer(_) => {}
            Piece::End => break,
        }
    }
    if let Some(whole) = http1::body(&last.framing, rest) {
        assert_eq!(decoded, whole, "the body of {}", bytes.escape_ascii());
    }
});

fn check(came: &Response<'_>, head: &[u8], is_stream: bool) -> Result<(), String> {
    let made = http1::response(head, Reading::Made).map_err(|refusal| format!("made: {refusal}"))?;
    if made.status != came.status {
        return Err("another status".into());
    }
    if !made.rest.is_empty() {
        return Err("more than one head".into());
    }
    let is_page = came.status >= 200 && !is_stream;
    let same = match (came.status, &came.framing) {
        (100..=199 | 204, _) => made.framing == Framing::None && no_framing(&made),
        (205, _) => made.framing == Framing::Length(0),
        // The length that the body would have, or nothing: no reader takes it for one.
        (304, _) => {
            all(&made.fields, "transfer-encoding").is_empty() && lengths_of(came).contains(&lengths_of(&made)[0])
        }
        (_, Framing::Length(_)) if is_page => made.framing == came.framing,
        _ => made.framing == Framing::Chunked,
    };
    if !same {
        return Err(format!("another framing: {:?} for {:?}", made.framing, came.framing));
    }
    let may_have_trailers = is_page && came.framing == Framing::Chunked;
    let named: Vec<String> = http1::list(&came.fields, "connection")
        .into_iter()
        .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
        .collect();
    let mut left = came.fields.clone();
    for (name, value) in &made.fields {
        let shown = format!("{name}: {}", value.escape_ascii());
        let is_framing = is_page && (name == "content-length" || may_have_trailers && name == "trailer");
        if HOP_BY_HOP.contains(&name.as_str()) && !is_framing {
            return Err(format!("of the upstream's connection: {shown}"));
        }
        if name == "content-length"
            || if is_page { PAGES_OWN.contains(&name.as_str()) } else { OWN.contains(&name.as_str()) }
        {
            continue;
        }
        if named.contains(name) {
            return Err(format!("named by Connection: {shown}"));
        }
        match left.iter().position(|(known, sent)| known == name && collapsed(sent) == collapsed(value)) {
            Some(at) => drop(left.swap_remove(at)),
            None => return Err(format!("not of the upstream: {shown}")),
        }
    }
    Ok(())
}

fn no_framing(made: &Response<'_>) -> bool {
    ["transfer-encoding", "content-length"].iter().all(|name| all(&made.fields, name).is_empty())
}

/// What a 304 says of the length, as numbers, and that it may say nothing.
fn lengths_of(head: &Response<'_>) -> Vec<Option<u64>> {
    let numbers = http1::list(&head.fields, "content-length");
    let numbers = numbers.into_iter().map(|digits| std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()));
    numbers.chain([None]).collect()
}

/// With one space for each run of them: how many a folded line leaves is not said.
fn collapsed(value: &[u8]) -> Vec<&[u8]> {
    value.split(|byte| b" \t".contains(byte)).filter(|part| !part.is_empty()).collect()
}
