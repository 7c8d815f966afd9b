//! Configuration files of programs that are compared: used as they stand, only the addresses replaced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::TargetError;

/// The text of a configuration file, which `option` names.
pub(super) fn read(path: &Path, option: &'static str) -> Result<String, TargetError> {
    std::fs::read_to_string(path).map_err(|cause| TargetError::Config { path: path.to_owned(), option, cause })
}

/// The value of an nginx directive that stands on a line of its own.
pub(super) fn directive<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with(name))?;
    line[name.len()..].trim().strip_suffix(';').map(str::trim)
}

/// Replaces the one line that begins with `begin` by one for each address, keeping what follows on it.
pub(super) fn readdress(
    text: &str,
    path: &Path,
    begin: &'static str,
    with: impl Fn(SocketAddr) -> String,
    addresses: &[SocketAddr],
) -> Result<String, TargetError> {
    let lines: Vec<String> = addresses.iter().map(|address| with(*address)).collect();
    replace(text, path, begin, |rest| lines.iter().map(|line| format!("        {line}{rest}\n")).collect())
}

/// Replaces the one line that begins with `begin` by what `with` makes of the rest of it.
pub(super) fn replace(
    text: &str,
    path: &Path,
    begin: &'static str,
    with: impl Fn(&str) -> String,
) -> Result<String, TargetError> {
    let rest_of = |line: &'_ str| -> Option<String> {
        let rest = line.trim_start().strip_prefix(begin)?;
        (rest.is_empty() || rest.starts_with([';', ' '])).then(|| rest.to_owned())
    };
    let found = text.lines().filter(|line| rest_of(line).is_some()).count();
    if found != 1 {
        return Err(TargetError::ConfigText { path: PathBuf::from(path), expected: begin, found });
    }
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        match rest_of(line) {
            Some(rest) => out.push_str(&with(&rest)),
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "worker_processes 3;\n# listen 8080 is replaced\nlisten 8080 reuseport;\n";
    const LISTEN: &str = "listen 8080";

    #[test]
    fn the_line_is_replaced_by_one_per_address_and_comments_are_not() {
        let addresses = ["127.0.0.12:81".parse().expect("valid"), "127.0.1.12:82".parse().expect("valid")];
        let text = readdress(CONFIG, Path::new("x"), LISTEN, |address| format!("listen {address}"), &addresses)
            .expect("one line");
        assert!(text.contains("listen 127.0.0.12:81 reuseport;\n        listen 127.0.1.12:82 reuseport;\n"), "{text}");
        assert!(text.contains("# listen 8080 is replaced"), "{text}");
    }

    #[test]
    fn a_missing_or_repeated_line_is_refused() {
        for text in [String::new(), CONFIG.repeat(2), CONFIG.replace("listen 8080 reuse", "listen 80801 reuse")] {
            let result = readdress(&text, Path::new("x.conf"), LISTEN, |address| address.to_string(), &[]);
            assert!(matches!(result, Err(TargetError::ConfigText { .. })), "{text}");
        }
    }

    #[test]
    fn a_directive_is_read_without_its_semicolon() {
        assert_eq!(directive(CONFIG, "worker_processes"), Some("3"));
        assert_eq!(directive(CONFIG, "worker_connections"), None);
    }
}
