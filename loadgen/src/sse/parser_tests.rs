//! The parser against a naive reference: whole input at once, line by line, as the standard's text reads.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Event(Vec<u8>, Vec<u8>, Vec<u8>, bool),
    Comment(Vec<u8>),
    Retry(u64),
}

/// Splits the whole input into finished lines first, then walks them: slow, and with no state between reads.
fn reference(input: &[u8]) -> Vec<Owned> {
    let input = input.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(input);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut index = 0;
    while index < input.len() {
        match input[index] {
            b'\r' => {
                if input.get(index + 1) == Some(&b'\n') {
                    index += 1;
                }
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("there is always a line").push(byte),
        }
        index += 1;
    }
    lines.pop();

    let (mut out, mut data, mut name, mut id) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut has_own_id = false;
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                out.push(Owned::Event(name.clone(), data.clone(), id.clone(), has_own_id));
            }
            data.clear();
            name.clear();
            has_own_id = false;
            continue;
        }
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let field = halves.next().unwrap_or_default();
        let value = halves.next().unwrap_or_default();
        if line[0] == b':' {
            out.push(Owned::Comment(value.to_vec()));
            continue;
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            b"id" if !value.contains(&0) => (id, has_own_id) = (value.to_vec(), true),
            b"retry" => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                if let (true, Ok(ms)) = (digits, String::from_utf8_lossy(value).parse()) {
                    out.push(Owned::Retry(ms));
                }
            }
            _ => {}
        }
    }
    out
}

fn parse(pieces: &[&[u8]]) -> Vec<Owned> {
    let mut parser = Parser::default();
    let mut out = Vec::new();
    for piece in pieces {
        parser.feed(piece, |item| {
            out.push(match item {
                Item::Event { name, data, last_event_id, has_own_id } => {
                    Owned::Event(name.to_vec(), data.to_vec(), last_event_id.to_vec(), has_own_id)
                }
                Item::Comment(text) => Owned::Comment(text.to_vec()),
                Item::Retry(ms) => Owned::Retry(ms),
            });
        });
    }
    out
}

const CORPUS: &[&[u8]] = &[
    b"data: one\n\ndata: two\n\n",
    b"data: one\r\ndata: two\r\n\r\n",
    b"data: one\rdata: two\r\r",
    b"data: one\r\n\ndata: two\n\r\n",
    b"data: one\n\rdata: two\r\r\n",
    b"\xEF\xBB\xBFdata: after a bom\n\n",
    b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a second bom is part of the field name\n\n",
    b"\xEF\xBBdata: half a bom\n\ndata: x\n\n",
    b": comment\n:\n: \n\ndata\n\ndata:\n\ndata:  two spaces\n\n",
    b"event: tick\nid: 1\nretry: 100\ndata: {\"a\":1}\ndata: more\n\nid\ndata: id was reset\n\n",
    b"id: a\0b\ndata: null in id\n\nretry: 1x\nretry:\ndata: x\n\n",
    b"event: dropped with no data\n\ndata: default name\n\n",
    b"unknown: field\nnocolon\ndata: x\n\ndata: unfinished",
    b"\n\n\r\r\n\r\n",
    b"",
];

#[test]
fn every_split_in_two_and_byte_by_byte_gives_what_the_reference_gives() {
    assert!(CORPUS.len() > 10);
    for input in CORPUS {
        let expected = reference(input);
        for cut in 0..=input.len() {
            assert_eq!(
                parse(&[&input[..cut], &input[cut..]]),
                expected,
                "{:?} cut at {cut}",
                input.escape_ascii().to_string()
            );
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(parse(&bytes), expected, "{:?} byte by byte", input.escape_ascii().to_string());
    }
}

#[test]
fn a_record_is_open_from_its_first_byte_to_its_blank_line() {
    let mut parser = Parser::default();
    for (bytes, open) in
        [("dat", true), ("a: x\n", true), ("\n", false), (": comment\n", false), ("id: 1\n", true), ("\r", false)]
    {
        parser.feed(bytes.as_bytes(), |_| {});
        assert_eq!(parser.in_record(), open, "after {bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_input_at_any_cuts_gives_what_the_reference_gives(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "\n", "\r", "\r\n", ":", " ", "data", "id", "event", "retry", "data: x", "7", "\0", "\u{FEFF}", "é",
        ]), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let input = tokens.concat().into_bytes();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        places.extend([0, input.len()]);
        places.sort_unstable();
        let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parse(&pieces), reference(&input));
    }
}
