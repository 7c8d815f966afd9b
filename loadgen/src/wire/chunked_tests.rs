//! The chunked decoder against a naive reference that sees the whole body at once.

use proptest::prelude::*;

use super::*;

/// Body, bytes used, and whether it was complete; `None` when the input is not a valid prefix of the coding.
type Decoded = Option<(Vec<u8>, usize, bool)>;

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::default();
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in pieces {
        used += decoder.feed(piece, |bytes| body.extend_from_slice(bytes)).ok()?;
    }
    Some((body, used, decoder.is_done()))
}

/// Finds each line by searching for CRLF in the whole input: right only for complete, valid bodies.
fn reference(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line_at = |at: usize| -> Option<(&[u8], usize)> {
        let end = input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some((&input[at..at + end], at + end + 2))
    };
    loop {
        let (line, next) = line_at(at)?;
        let text = std::str::from_utf8(line).ok()?;
        let size = usize::from_str_radix(text.split([';', ' ']).next()?, 16).ok()?;
        if size == 0 {
            at = next;
            break;
        }
        body.extend_from_slice(input.get(next..next + size)?);
        at = next + size + 2;
    }
    loop {
        let (line, next) = line_at(at)?;
        at = next;
        if line.is_empty() {
            return Some((body, at));
        }
    }
}

const VALID: &[&[u8]] = &[
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
    b"A;name=value\r\n0123456789\r\n0 \r\n\r\n",
    b"0005\r\n\r\n\r\n\n\r\n0\r\nx: y\r\nz: w\r\n\r\n",
    b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
];

#[test]
fn every_split_gives_what_the_reference_gives() {
    for input in VALID {
        let (body, used) = reference(input).expect("the corpus is valid");
        let expected = Some((body, used, true));
        for cut in 0..=input.len() {
            assert_eq!(
                decode(&[&input[..cut], &input[cut..]]),
                expected,
                "{:?} cut at {cut}",
                input.escape_ascii().to_string()
            );
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(decode(&bytes), expected);
    }
}

#[test]
fn every_true_prefix_is_incomplete_and_no_error() {
    for input in VALID {
        let (_, used) = reference(input).expect("the corpus is valid");
        for end in 0..used {
            assert!(
                matches!(decode(&[&input[..end]]), Some((_, _, false))),
                "{end} bytes of {:?}",
                input.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn malformed_framing_is_refused() {
    for (input, error) in [
        (&b"\r\n"[..], ChunkError::Size),
        (b"x\r\n", ChunkError::Size),
        (b"5x\r\n", ChunkError::Size),
        (b"5\nhello", ChunkError::Size),
        (b"5\rX", ChunkError::LineEnd),
        (b"5\r\nhelloX\r\n", ChunkError::LineEnd),
        (b"5\r\nhello\rX", ChunkError::LineEnd),
        (b"5;a\nhello", ChunkError::LineEnd),
        (b"0\r\n\n", ChunkError::LineEnd),
        (b"10000000000000000\r\n", ChunkError::Overflow),
    ] {
        assert_eq!(Decoder::default().feed(input, |_| {}), Err(error), "{:?}", input.escape_ascii().to_string());
    }
    assert_eq!(Decoder::default().feed(&b"1;".repeat(5000), |_| {}), Err(ChunkError::LineTooLong));
}

#[test]
fn trailer_fields_are_counted() {
    let mut decoder = Decoder::default();
    decoder.feed(b"0\r\nx: y\r\nz: w\r\n\r\n", |_| {}).expect("valid");
    assert_eq!((decoder.is_done(), decoder.trailers()), (true, 2));
}

/// Each input with whether it is malformed. None of them is a whole body.
#[test]
fn a_chunk_that_is_announced_with_a_line_feed_alone_breaks_off_the_body() {
    let cases: &[(&[u8], bool)] = &[
        (b"ff\n", false),
        (b"5\r\nhello\r\nff\n", false),
        (b"5\r\nhello\r\nff", false),
        (b"5\r\nhello\r\nff\n\n", true),
        (b"5\r\nhello\r\nff\nhello", true),
        (b"5\r\nhello\r\nfe\n", true),
        (b"5\r\nhello\r\n0ff\n", true),
        (b"5\r\nhello\r\nff;x\n", true),
        (b"5\r\nhello\r\nff \n", true),
        (b"5\r\nhello\r\n0\n", true),
        (b"5\r\nhelloff\n", true),
        (b"5\r\nhello\r\n0\r\nff\n", true),
        (b"xyz\r\n", true),
    ];
    for (input, malformed) in cases {
        for cut in 0..=input.len() {
            let (head, tail) = input.split_at(cut);
            let decoded = decode(&[head, tail]);
            assert_eq!(decoded.is_none(), *malformed, "{input:?} cut at {cut}");
            assert!(decoded.is_none_or(|(_, _, done)| !done), "{input:?} cut at {cut}");
        }
    }
}

proptest! {
    #[test]
    fn any_body_in_any_chunks_comes_back_at_any_cuts(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        places.extend([0, wire.len()]);
        places.sort_unstable();
        let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(&pieces), Some((chunks.concat(), wire.len(), true)));
    }

    #[test]
    fn no_input_makes_it_panic_and_no_cut_changes_the_answer(
        input in prop::collection::vec(prop::sample::select(b"0123aF;\r\n x".to_vec()), 0..40),
    ) {
        let whole = decode(&[&input]);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(decode(&bytes), whole);
    }
}
