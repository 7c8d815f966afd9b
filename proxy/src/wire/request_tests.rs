//! The table of request heads, and properties of the parser.

use proptest::prelude::*;

use super::*;

#[path = "../../tests/it/request_heads.rs"]
mod request_heads;

/// Parses `bytes`: incomplete, the head's length and how it is forwarded, or a refusal.
fn read(bytes: &[u8]) -> Result<Option<(usize, BodyLength, Vec<u8>)>, Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let head = RequestHead::parse(bytes, &HeadLimits::default(), &mut fields)?;
    Ok(head.map(|head| {
        let mut written = Vec::new();
        head.write(&mut written);
        (head.length, head.body, written)
    }))
}

/// A head is incomplete up to some byte; from there on the verdict is the same whatever follows.
fn check_every_split(bytes: &[u8]) {
    let whole = read(bytes);
    // All cuts of short heads; a few of long ones, whose parse takes longer.
    let step = 1 + bytes.len() / 400;
    for cut in (0..bytes.len()).step_by(step) {
        match read(&bytes[..cut]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "cut at {cut} of {:?}", bytes.escape_ascii().to_string()),
        }
    }
}

#[test]
fn each_head_of_the_table_is_served_or_refused_for_its_reason() {
    let cases = request_heads::cases();
    assert!(cases.len() > 150, "{}", cases.len());
    for (head, status, reason) in &cases {
        let seen = match read(head.as_bytes()) {
            Ok(Some(_)) => (200, ""),
            Ok(None) => (0, "incomplete"),
            Err(refusal) => (refusal.status(), refusal.as_str()),
        };
        assert_eq!(seen, (*status, *reason), "{:?}", head.escape_debug().to_string());
        check_every_split(head.as_bytes());
        // The forwarded head parses again, to itself.
        if let Ok(Some((_, body, written))) = read(head.as_bytes()) {
            assert_eq!(read(&written), Ok(Some((written.len(), body, written.clone()))));
            assert!(
                !written
                    .split(|byte| *byte == b'\n')
                    .skip(1)
                    .any(|line| { line.split(|byte| *byte == b':').next().is_some_and(|name| name.contains(&b'_')) })
            );
        }
    }
}

#[test]
fn the_body_begins_where_the_head_ends() {
    for (framing, body) in [
        ("Content-Length: 3", BodyLength::Length(3)),
        ("Content-Length: 3\r\nContent-Length: 03", BodyLength::Length(3)),
        ("content-length: 3,3", BodyLength::Length(3)),
        ("Transfer-Encoding: Chunked", BodyLength::Chunked),
        ("X: y", BodyLength::Length(0)),
    ] {
        let head = format!("\r\nPOST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let bytes = format!("{head}abcGET / HTTP/1.1\r\n\r\n");
        let (length, seen, written) = read(bytes.as_bytes()).expect("served").expect("complete");
        assert_eq!((length, seen), (head.len(), body), "{framing}");
        let lengths = String::from_utf8(written).expect("text").to_lowercase().matches("content-length").count();
        assert_eq!(lengths, usize::from(framing.to_lowercase().contains("length")), "{framing}");
    }
}

#[test]
fn an_answer_to_a_refused_request_is_whole() {
    let response = String::from_utf8(Refusal::TargetTooLong.response()).expect("text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 414 URI Too Long\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(head.contains("\r\nProxy-Status: sse-proxy; error=http_request_error\r\nConnection: close"), "{head}");
    assert_eq!(body, "414 the request target is longer than client.limits.target\n");
}

proptest! {
    #[test]
    fn random_changes_never_panic_and_split_alike(
        at in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let cases = request_heads::cases();
        let mut bytes = at.get(&cases).0.clone().into_bytes();
        bytes.truncate(400);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check_every_split(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_every_split(&bytes);
    }
}
