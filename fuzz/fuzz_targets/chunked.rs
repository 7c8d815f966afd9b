//! The chunked coding: the decoder reads what a naive one reads, however the input is cut; what it encodes reads back; and
//! trailers that are passed on frame nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_proxy::wire::chunked::{self, Decoder, Piece};
use sse_proxy::wire::trailers;
use sse_proxy_fuzz::chunked::{Decoded, End, decode};
use sse_proxy_fuzz::cut;

fn decode_parts(parts: &[&[u8]]) -> Decoded {
    let (mut decoder, mut taken) = (Decoder::default(), 0);
    let mut decoded = Decoded { data: Vec::new(), trailer: Vec::new(), end: End::More };
    for part in parts {
        let mut input = *part;
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Piece::Data(data))) => decoded.data.extend_from_slice(data),
                Ok(Some(Piece::Trailer(line))) => decoded.trailer.extend_from_slice(line),
                Ok(Some(Piece::End)) => {
                    assert!(decoder.is_done());
                    decoded.end = End::Complete(taken + part.len() - input.len());
                    return decoded;
                }
                Ok(None) => break,
                Err(_) => {
                    decoded.end = End::Broken;
                    return decoded;
                }
            }
        }
        taken += part.len();
    }
    assert!(!decoder.is_done());
    decoded
}

fuzz_target!(|input: (&[u8], [u8; 3])| {
    let (wire, sizes) = input;
    let shown = wire.escape_ascii();
    let naive = decode(wire);
    let mut ways = vec![cut(wire, &sizes), cut(wire, &[1]), vec![wire]];
    if wire.len() <= 64 {
        ways.extend((0..=wire.len()).map(|at| vec![&wire[..at], &wire[at..]]));
    }
    for parts in ways {
        let mut decoded = decode_parts(&parts);
        if naive.end == End::Broken {
            // How much of a broken trailer section is given out before that is seen is a matter of the cuts.
            decoded.trailer.clone_from(&naive.trailer);
        }
        assert_eq!(decoded, naive, "{shown} in {} parts", parts.len());
    }

    let mut encoded = Vec::new();
    for part in cut(wire, &sizes) {
        chunked::encode(part, &mut encoded);
    }
    encoded.extend_from_slice(chunked::LAST_CHUNK);
    let back = decode(&encoded);
    assert_eq!((back.data.as_slice(), back.end), (wire, End::Complete(encoded.len())), "{shown}");

    // A trailer section as it is passed on: framed as one, and nothing in it that belongs into a head.
    let mut last = Vec::new();
    trailers::encode_last_chunk(wire, &mut last);
    let passed = decode(&last);
    assert_eq!(passed.end, End::Complete(last.len()), "{shown}");
    for line in passed.trailer.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase();
        let forbidden: [&[u8]; 5] = [b"transfer-encoding", b"content-length", b"host", b"connection", b"trailer"];
        assert!(line.ends_with(b"\r\n") && !forbidden.contains(&name.as_slice()), "{shown}");
    }
});
