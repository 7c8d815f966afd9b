//! Names of upstreams and routes, which label metrics and log lines.

use super::error::Problem;

/// Longest name of a route or an upstream, in bytes: it is a label of each metric.
const MAX_NAME_BYTES: usize = 64;

/// Checks that a name is valid in a metric's label and in a line of the log.
pub(super) fn check_name(key: &[&str], name: &str) -> Result<(), Problem> {
    let is_plain = |letter: char| !letter.is_control() && !letter.is_whitespace() && !"\"'\\".contains(letter);
    let what = match name.len() {
        0 => "is empty".to_owned(),
        length if length > MAX_NAME_BYTES => format!("is a name of {length} bytes"),
        _ if !name.chars().all(is_plain) => {
            format!("is {name:?}, which has a space, a quote, a backslash or a control character")
        }
        _ => return Ok(()),
    };
    let remedy = format!("use 1 to {MAX_NAME_BYTES} bytes without any of these: metrics and logs are labelled with it");
    Err(Problem::new(key, what, remedy))
}
