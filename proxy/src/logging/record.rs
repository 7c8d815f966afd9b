//! Sanitizes the text of a log record: one line, with queries masked. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest text of one record, in bytes; the rest is cut.
const MAX_BYTES: usize = 4 * 1024;

/// The fields whose values distinguish the causes of a message. They precede anything that a peer has sent.
const CAUSE_FIELDS: [&str; 6] = ["route=", "reason=", "server=", "listener=", "location=", "warning="];

/// Characters that no target contains.
const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];

/// Sanitizes a text for the log.
pub(super) fn clean(text: &str) -> String {
    let cut = (0..=MAX_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    let mut clean = mask_queries(&text[..cut]);
    if cut < text.len() {
        clean.to_mut().push('…');
    }
    if !clean.contains(char::is_control) {
        return clean.into_owned();
    }
    let mut escaped = String::with_capacity(clean.len() + 8);
    for letter in clean.chars() {
        match letter.is_control() {
            true => drop(write!(escaped, "{}", letter.escape_default())),
            false => escaped.push(letter),
        }
    }
    escaped
}

/// The fields that distinguish causes, from a text that begins with fields.
pub(super) fn cause_fields(text: &str) -> String {
    let words = text.split(' ').filter(|word| CAUSE_FIELDS.iter().any(|field| word.starts_with(field)));
    words.take(CAUSE_FIELDS.len()).collect::<Vec<_>>().join(" ")
}

/// Masks queries, which may contain tokens and private text: `/chat?q=…` becomes `/chat?…`, anywhere in a text.
fn mask_queries(text: &str) -> Cow<'_, str> {
    if !text.contains('?') {
        return text.into();
    }
    let mask = |word: &str| match word.split_once('?') {
        Some((path, query)) if path.contains('/') && !query.trim_end_matches(SPACES).is_empty() => {
            let space = &word[word.trim_end_matches(SPACES).len()..];
            format!("{path}?…{space}")
        }
        _ => word.to_owned(),
    };
    text.split_inclusive(SPACES).map(mask).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_without_secrets() {
        for (text, wanted) in [
            ("nothing to mask", "nothing to mask"),
            ("GET /chat?token=a,b&c=\"d\" HTTP/1.1, Host: a", "GET /chat?… HTTP/1.1, Host: a"),
            ("path=/a?b status=502: http://h/x?y", "path=/a?… status=502: http://h/x?…"),
            ("what now? /a? b", "what now? /a? b"),
            ("/a?b\nforged line", "/a?…\\nforged line"),
            ("bell\u{7} and escape \u{1b}[31m", "bell\\u{7} and escape \\u{1b}[31m"),
            ("größe /ä?ö", "größe /ä?…"),
            ("/a?b\u{a0}", "/a?…"),
        ] {
            assert_eq!(clean(text), wanted);
        }
        let long = clean(&"ä".repeat(MAX_BYTES));
        assert!(long.len() <= MAX_BYTES + '…'.len_utf8() && long.ends_with("ä…"));
    }

    #[test]
    fn causes_are_told_apart_by_their_fields() {
        let text = "request failed: side=upstream route=/a reason=no_server: GET /x?route=/b";
        assert_eq!(cause_fields(text), "route=/a reason=no_server:");
        assert_eq!(cause_fields("a library's message without fields"), "");
    }
}
