//! Reads the query of `/events`, and refuses what is unknown or makes no sense.

use std::time::Duration;

use thiserror::Error;

use super::spec::{Ending, Eol, Mode, Pieces, Schedule, StreamSpec, TransferFraming};

const MAX_SIZE_BYTES: usize = 16 * 1024 * 1024;
const MAX_LINES: usize = 10_000;
/// A body with a length is measured event by event before its head is written.
const MAX_LENGTH_FRAMED_EVENTS: u64 = 1_000_000;

/// Why a query is refused; the text is the body of the 400.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No such parameter.
    #[error(
        "unknown parameter `{0}`; known are interval, size, count, then, start_after, start_at, gate, schedule, eol, split, bom, retry, \
         multiline, framing, silent, flood, hang, abort_after, first_byte_delay, comments, name, trailers"
    )]
    Unknown(String),
    /// A value that does not fit its parameter.
    #[error("`{name}={value}`: expected {expected}")]
    Value {
        /// The parameter.
        name: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Parameters that contradict each other.
    #[error("{0}")]
    Conflict(&'static str),
}

impl StreamSpec {
    /// Reads a query string such as `interval=1s&size=100&silent`.
    ///
    /// # Errors
    /// The first parameter that is unknown, out of range or in contradiction to another.
    pub fn parse(query: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
            spec.set(&decode(name), &decode(value))?;
        }
        spec.check()?;
        Ok(spec)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), SpecError> {
        let refuse = |expected| SpecError::Value { name: name.to_owned(), value: value.to_owned(), expected };
        let number = || value.parse::<u64>().map_err(|_| refuse("a whole number"));
        let span = || duration_us(value).ok_or_else(|| refuse("a time such as 250ms or 15s"));
        let flag = || match value {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(refuse("1 or 0")),
        };
        match name {
            "interval" => self.interval_us = span()?,
            "size" => self.size = bounded(number()?, MAX_SIZE_BYTES).ok_or_else(|| refuse("at most 16777216"))?,
            "multiline" => self.lines = bounded(number()?, MAX_LINES).ok_or_else(|| refuse("at most 10000"))?.max(1),
            "count" => self.count = Some(number()?),
            "then" => {
                self.ending = choice(value, &[("close", Ending::Close), ("hold", Ending::Hold)])
                    .ok_or_else(|| refuse("close or hold"))?
            }
            "start_after" => self.start_after_us = span()?,
            "start_at" => self.start_at_us = number()?,
            "gate" => self.gate = Some(value.into()),
            "schedule" => {
                self.schedule =
                    choice(value, &[("staggered", Schedule::Staggered), ("broadcast", Schedule::Broadcast)])
                        .ok_or_else(|| refuse("staggered or broadcast"))?;
            }
            "eol" => {
                self.eol =
                    choice(value, &[("lf", Eol::Lf), ("cr", Eol::Cr), ("crlf", Eol::Crlf), ("mixed", Eol::Mixed)])
                        .ok_or_else(|| refuse("lf, cr, crlf or mixed"))?;
            }
            "split" if value == "random" => self.pieces = Pieces::Random,
            "split" => {
                let bytes = value.parse().ok().filter(|bytes| *bytes > 0);
                self.pieces = Pieces::Every(bytes.ok_or_else(|| refuse("a number of bytes, or random"))?);
            }
            "bom" => self.bom = flag()?,
            "retry" => self.retry_ms = Some(span()? / 1000),
            "framing" => {
                let known = [
                    ("chunked", TransferFraming::Chunked),
                    ("length", TransferFraming::Length),
                    ("close", TransferFraming::Close),
                ];
                self.framing = choice(value, &known).ok_or_else(|| refuse("chunked, length or close"))?;
            }
            "silent" => self.mode = if flag()? { Mode::Silent } else { self.mode },
            "flood" => self.mode = if flag()? { Mode::Flood } else { self.mode },
            "hang" => self.mode = if flag()? { Mode::Hang } else { self.mode },
            "abort_after" => self.abort_after = Some(number()?),
            "first_byte_delay" => self.first_byte_delay_us = span()?,
            "comments" => self.comments_us = Some(span()?.max(1)),
            "name" if value.is_empty() || value.contains(['\r', '\n']) => {
                return Err(refuse("a name without line breaks"));
            }
            "name" => self.name = value.into(),
            "trailers" => self.trailers = flag()?,
            _ => return Err(SpecError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SpecError> {
        let conflict = |what| Err(SpecError::Conflict(what));
        if self.interval_us == 0 {
            return conflict("`interval` must not be 0; `flood` sends as fast as it can");
        }
        if self.framing == TransferFraming::Length {
            if self.count.is_none_or(|count| count > MAX_LENGTH_FRAMED_EVENTS) {
                return conflict("`framing=length` needs a `count` of at most 1000000, to know the length");
            }
            if self.comments_us.is_some()
                || self.retry_ms.is_some()
                || self.ending == Ending::Hold
                || self.mode != Mode::Events
            {
                return conflict("`framing=length` cannot go with comments, retry, then=hold, silent, flood or hang");
            }
        }
        if self.trailers && self.framing != TransferFraming::Chunked {
            return conflict("`trailers` needs `framing=chunked`");
        }
        Ok(())
    }
}

fn bounded(value: u64, max: usize) -> Option<usize> {
    usize::try_from(value).ok().filter(|value| *value <= max)
}

fn choice<T: Copy>(value: &str, known: &[(&str, T)]) -> Option<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice)
}

fn duration_us(value: &str) -> Option<u64> {
    let duration: Duration = humantime::parse_duration(value).ok()?;
    u64::try_from(duration.as_micros()).ok()
}

/// Percent-decoding (RFC 3986 §2.1), with `+` for a space as HTML forms write it.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_query_is_the_default_stream() {
        assert_eq!(StreamSpec::parse(""), Ok(StreamSpec::default()));
    }

    #[test]
    fn parameters_are_read() {
        let spec = StreamSpec::parse(
            "interval=250ms&size=2000&count=3&then=hold&eol=mixed&split=random&name=price%20tick&bom=1&comments=5s",
        );
        let expected = StreamSpec {
            interval_us: 250_000,
            size: 2000,
            count: Some(3),
            ending: Ending::Hold,
            eol: Eol::Mixed,
            pieces: Pieces::Random,
            name: "price tick".into(),
            bom: true,
            comments_us: Some(5_000_000),
            ..StreamSpec::default()
        };
        assert_eq!(spec, Ok(expected));
        assert_eq!(StreamSpec::parse("silent").map(|spec| spec.mode), Ok(Mode::Silent));
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let error = StreamSpec::parse("intervall=1s").expect_err("misspelt");
        assert!(error.to_string().contains("`intervall`"), "{error}");
    }

    #[test]
    fn bad_values_name_the_parameter_and_what_is_expected() {
        for query in [
            "interval=soon",
            "size=-1",
            "size=99999999999",
            "eol=lfcr",
            "split=0",
            "framing=none",
            "bom=yes",
            "name=a%0Ab",
            "name=",
            "then=stop",
            "interval=0s",
            "framing=length",
            "framing=length&count=2&comments=1s",
            "trailers=1&framing=close",
            "schedule=random",
        ] {
            let error = StreamSpec::parse(query).expect_err(query);
            let name = query.split('=').next().unwrap_or_default();
            assert!(error.to_string().contains(name), "{query}: {error}");
        }
    }
}
