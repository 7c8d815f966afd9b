//! Mistakes in a configuration: the key, what is wrong, what to do, and where it stands.

use std::fmt;
use std::io;
use std::path::PathBuf;

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
    /// The file is not valid YAML, or a value is invalid, by itself or beside the others.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: Problem,
    },
}

/// What is wrong with a value, or probably not meant: `routes[0].heartbeat.interval is …; write …`.
#[derive(Clone, Debug)]
pub struct Problem {
    key: Vec<String>,
    /// Only known while the file is read. Afterwards, a walk through it finds the line of the key.
    line: Option<usize>,
    what: String,
    remedy: String,
}

impl Problem {
    pub(crate) fn new(key: &[&str], what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let key = key.iter().map(|part| (*part).to_owned()).collect();
        Self { key, line: None, what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn under(mut self, parents: &[&str]) -> Self {
        self.key.splice(0..0, parents.iter().map(|part| (*part).to_owned()));
        self
    }

    pub(super) fn at(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    pub(super) fn with_remedy(mut self, remedy: &str) -> Self {
        remedy.clone_into(&mut self.remedy);
        self
    }

    pub(super) fn key(&self) -> &[String] {
        &self.key
    }

    pub(super) fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}; {}", KeyPath(&self.key), self.what, self.remedy)
    }
}

/// `routes[0].heartbeat.payload`.
struct KeyPath<'a>(&'a [String]);

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("the file");
        }
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
