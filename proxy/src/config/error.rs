//! Configuration errors, with file, line, key and remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The configuration is invalid.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not valid YAML, has an unknown key, or a value of the wrong type.
    #[error("{}", located(path, source))]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's error, with its location.
        source: serde_yaml::Error,
    },
    /// A value is invalid, by itself or beside the others.
    #[error("{}:{line}: {key} {what}; {remedy}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// Path of the key.
        key: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
}

fn located(path: &Path, source: &serde_yaml::Error) -> String {
    let text = source.to_string();
    match source.location() {
        Some(location) => {
            let place = format!(" at line {} column {}", location.line(), location.column());
            format!("{}:{}:{}: {}", path.display(), location.line(), location.column(), text.replace(&place, ""))
        }
        None => format!("{}: {text}", path.display()),
    }
}

/// A [`ConfigError::Value`] without its file.
#[derive(Debug)]
pub(super) struct Problem {
    key: Vec<String>,
    what: String,
    remedy: String,
}

impl Problem {
    pub(super) fn new(key: &[&str], what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let key = key.iter().map(|part| (*part).to_owned()).collect();
        Self { key, what: what.into(), remedy: remedy.into() }
    }

    pub(super) fn under(mut self, parents: &[&str]) -> Self {
        self.key.splice(0..0, parents.iter().map(|part| (*part).to_owned()));
        self
    }

    pub(super) fn with_remedy(mut self, remedy: &str) -> Self {
        remedy.clone_into(&mut self.remedy);
        self
    }

    pub(super) fn in_file(self, path: &Path, text: &str) -> ConfigError {
        ConfigError::Value {
            path: path.to_owned(),
            line: line_of(text, &self.key),
            key: KeyPath(&self.key).to_string(),
            what: self.what,
            remedy: self.remedy,
        }
    }
}

/// `routes[0].heartbeat.payload`.
struct KeyPath<'a>(&'a [String]);

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            match part.parse::<usize>() {
                Ok(index) => write!(formatter, "[{index}]")?,
                Err(_) if at == 0 => formatter.write_str(part)?,
                Err(_) => write!(formatter, ".{part}")?,
            }
        }
        Ok(())
    }
}

/// The line of a key, or of its deepest parent that can be found. Parsed values do not keep their locations, so this
/// searches the text: each name after its parent, each index by its dash.
fn line_of(text: &str, key: &[String]) -> usize {
    let lines: Vec<&str> = text.lines().map(|line| line.split(" #").next().unwrap_or(line)).collect();
    let mut found = 0;
    for part in key {
        let next = match part.parse::<usize>() {
            Ok(index) => {
                let dashes =
                    lines.iter().enumerate().skip(found).filter(|(_, line)| line.trim_start().starts_with("- "));
                let mut dashes = dashes.peekable();
                let indent = dashes.peek().map(|(_, line)| line.len() - line.trim_start().len());
                dashes
                    .filter(|(_, line)| Some(line.len() - line.trim_start().len()) == indent)
                    .nth(index)
                    .map(|(at, _)| at)
            }
            Err(_) => {
                let wanted = format!("{part}:");
                let names = |line: &str| {
                    line.match_indices(&wanted).any(|(at, _)| {
                        line[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_')
                    })
                };
                (found..lines.len()).find(|at| names(lines[*at]))
            }
        };
        match next {
            Some(at) => found = at,
            None => break,
        }
    }
    found + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_on_their_lines() {
        let text = "upstreams:\n  a: {servers: [x:1]}\nroutes:\n  - match: {path_prefix: /a}\n    upstream: a\n  - match:\n      path_prefix: b\n    upstream: nope\n";
        let key = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_eq!(line_of(text, &key(&["routes", "1", "upstream"])), 8);
        assert_eq!(line_of(text, &key(&["routes", "0", "upstream"])), 5);
        assert_eq!(line_of(text, &key(&["routes", "1", "match", "path_prefix"])), 7);
        assert_eq!(line_of(text, &key(&["upstreams", "a", "servers"])), 2);
    }
}
