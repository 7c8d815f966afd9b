//! Forwards the fields of a trailer section that are allowed (RFC 9110 §6.5.1).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Most trailer fields that are passed on.
const MAX_FIELDS: usize = 32;

/// Fields that frame, route or authenticate a message, or that a recipient must know before the body (RFC 9110 §6.5.1):
/// in a trailer they could change how the message is interpreted.
const FORBIDDEN: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Appends the last chunk and the trailer fields of `section` that may be passed on.
///
/// `section` holds the field lines with their line ends, as [`super::chunked::Piece::Trailer`] gives them. A section
/// that does not parse is omitted: the body is complete without it.
pub fn encode_last_chunk(section: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    let complete = [section, b"\r\n"].concat();
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    if let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&complete, &mut fields) {
        for field in fields.iter().filter(|field| !is_forbidden(field.name)) {
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The trailer fields of `section` that may be passed on, for HTTP/2; `None` where there are none. See
/// [`encode_last_chunk`].
pub fn fields(section: &[u8]) -> Option<HeaderMap> {
    let complete = [section, b"\r\n"].concat();
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&complete, &mut fields) else {
        return None;
    };
    let mut map = HeaderMap::new();
    for field in fields.iter().filter(|field| !is_forbidden(field.name)) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}

fn is_forbidden(name: &str) -> bool {
    FORBIDDEN.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(section: &str) -> String {
        let mut out = Vec::new();
        encode_last_chunk(section.as_bytes(), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_pass_except_those_that_frame_the_message() {
        assert_eq!(encoded(""), "0\r\n\r\n");
        assert_eq!(encoded("Checksum: 7\r\n"), "0\r\nChecksum: 7\r\n\r\n");
        for name in [
            "Transfer-Encoding",
            "content-length",
            "Host",
            "Set-Cookie",
            "AUTHORIZATION",
            "Content-Type",
            "Cache-Control",
        ] {
            let section = format!("a: 1\r\n{name}: x\r\nb: 2\r\n");
            assert_eq!(encoded(&section), "0\r\na: 1\r\nb: 2\r\n\r\n", "{name}");
        }
    }

    #[test]
    fn fields_for_http_2_are_the_same_ones() {
        let map = fields(b"Checksum: 7\r\nTransfer-Encoding: chunked\r\nb: 2\r\n").expect("fields");
        assert_eq!((map.len(), map.get("checksum").map(|value| value.as_bytes())), (2, Some(&b"7"[..])));
        assert_eq!(fields(b"").map(|map| map.len()), None);
        assert_eq!(fields(b"no colon here\r\n").map(|map| map.len()), None);
    }

    #[test]
    fn a_section_that_does_not_parse_is_left_out() {
        assert_eq!(encoded("no colon here\r\n"), "0\r\n\r\n");
    }
}
