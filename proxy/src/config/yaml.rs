//! From the text of a file to typed values with serde_yaml, with errors that say key, line, what stands there and what to write.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_path_to_error::Segment;
use serde_yaml::{Deserializer, Error};

use super::error::Problem;
use super::walk::{Stop, line_of, walk};

/// How similar a known key has to be to be suggested, from 0 to 1.
const SIMILAR: f64 = 0.5;

/// How many parts the longest key of the configuration has.
const DEEPEST: usize = 7;

/// Keys that have to be there, with an example.
const REQUIRED: &[(&str, &str)] = &[
    ("upstreams", "upstreams: {app: {servers: [127.0.0.1:3000]}}"),
    ("servers", "servers: [127.0.0.1:3000]"),
    ("address", "address: 127.0.0.1:8080"),
    ("cert", "cert: /etc/tls/fullchain.pem"),
    ("key", "key: /etc/tls/privkey.pem"),
    ("name", "name: X-Tenant"),
];

/// Fails where a value begins.
#[derive(Deserialize)]
enum Nothing {}

/// Reads the text of a file; the problem has a line.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Problem> {
    check(text)?;
    if let Ok(None) = Option::<IgnoredAny>::deserialize(Deserializer::from_str(text)) {
        let remedy = "name at least one upstream: `upstreams: {app: {servers: [127.0.0.1:3000]}}`";
        return Err(Problem::new(&[], "is empty", remedy).at(1));
    }
    serde_path_to_error::deserialize(Deserializer::from_str(text)).map_err(|error| mistyped(&error))
}

/// Refuses what serde_yaml would read otherwise than it is meant (a key twice, tags), and what is not YAML.
fn check(text: &str) -> Result<(), Problem> {
    let (mut keys, mut twice) = (HashSet::new(), false);
    let walked = walk(text, &mut |key| {
        twice = !keys.insert(key.to_vec());
        twice
    });
    let Err(stop) = walked else { return Ok(()) };
    let line = stop.error.location().map_or(1, |location| location.line());
    if twice {
        let what = format!("is set twice: on line {} and on line {line}", line_of(text, &stop.key));
        return Err(problem(&stop.key, what, "remove one of the two").at(line));
    }
    match &stop.tag {
        Some(tag) => Err(problem(&stop.key, format!("has the YAML tag `{tag}`"), "remove the tag").at(line)),
        None => Err(not_yaml(text, &stop, line)),
    }
}

fn not_yaml(text: &str, stop: &Stop, line: usize) -> Problem {
    let nowhere = stop.error.location().is_none();
    if let Some(second) = Deserializer::from_str(text).nth(1).filter(|_| nowhere) {
        let content = Nothing::deserialize(second).err().and_then(|error| error.location());
        let lines = text.lines().take(content.map_or(1, |location| location.line())).collect::<Vec<_>>();
        let line = lines.iter().rposition(|line| line.starts_with("---")).map_or(lines.len(), |at| at + 1);
        return Problem::new(&[], "begins a second document", "remove the line `---` and what follows it").at(line);
    }
    let message = stop.error.to_string();
    // A tab is legal in a comment, in text and between brackets: one elsewhere in the file is not the cause.
    let indented_with_tab = |line: &str| line[..line.len() - line.trim_start().len()].contains('\t');
    let mut reported = text.lines().enumerate().skip(line.saturating_sub(1)).take(2);
    if let Some((at, _)) = reported.find(|(_, line)| indented_with_tab(line)) {
        let what = "is indented with a tab, which YAML does not allow";
        return Problem::new(&[], what, "replace the tab with spaces").at(at + 1);
    }
    // An open bracket or quote is noticed behind the last line. The message ends with the line where it is opened.
    let last = text.lines().count();
    let opened = message.rsplit_once(" at line ").and_then(|(_, at)| at.split(' ').next()?.parse().ok());
    let line = opened.filter(|_| line > last).unwrap_or(line).min(last);
    if message.starts_with("unknown anchor") {
        let column = stop.error.location().map_or(0, |location| location.column());
        let alias = text.lines().nth(line - 1).unwrap_or_default().chars().skip(column).collect::<String>();
        let name = alias.split([' ', ',', ']', '}']).next().unwrap_or_default();
        let what = format!("is the alias `*{name}`, and no value before it has the anchor `&{name}`");
        let remedy = format!("write `&{name}` before the value, or write the value here");
        return problem(&stop.key, what, remedy).at(line);
    }
    if message.starts_with("recursion limit exceeded") {
        let remedy = "close the brackets before it, or write the value out where an alias stands for itself";
        let key = &stop.key[..stop.key.len().min(DEEPEST)];
        return problem(key, "nests lists and maps too deeply", remedy).at(line);
    }
    let remedy = "check the indentation and the brackets, and quote values that contain `: ` or ` #`";
    problem(&stop.key, format!("is not valid YAML: {message}"), remedy).at(line)
}

/// Explains an error that serde or a value of ours has worded.
fn mistyped(error: &serde_path_to_error::Error<Error>) -> Problem {
    let key: Vec<String> = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    let (path, text) = (error.path().to_string(), error.inner().to_string());
    let location = error.inner().location();
    let (line, column) = location.map_or((1, 1), |location| (location.line(), location.column()));
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    // serde_yaml's own path of the key, or of the map it is in.
    let parents = (0..=path.len()).rev().filter_map(|length| path.get(..length));
    let message = parents.map(|path| format!("{path}: ")).find_map(|path| text.strip_prefix(&path)).unwrap_or(text);
    let (what, remedy) = explain(message);
    problem(&key, what, remedy).at(line)
}

/// What is wrong and what to write, from serde's text or from that of a value of ours: what is wrong, a colon, what to write.
fn explain(message: &str) -> (String, String) {
    let (written, known) = message.split_once("`, expected ").unwrap_or((message.trim_end_matches('`'), ""));
    let name = written.split_once('`').map_or(written, |(_, name)| name);
    let known = known.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (kind, rest) = message.split_once([':', '`']).unwrap_or((message, ""));
    match kind {
        "unknown field " => {
            ("is not a known key".to_owned(), format!("{}known keys here: {list}", suggestion(name, &known)))
        }
        "unknown variant " => (format!("is `{name}`"), format!("{}write one of {list}", suggestion(name, &known))),
        "missing field " => {
            let example = REQUIRED.iter().find(|(key, _)| *key == name).map_or(name, |(_, example)| example);
            (format!("has no `{name}`"), format!("add `{example}`"))
        }
        "invalid type" | "invalid value" => {
            let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "another value"));
            let wanted = match expected {
                "a boolean" => "true or false",
                "a string" => "text",
                "path string" => "a path",
                "u32" | "usize" => "a whole number",
                "a YAML tag starting with '!'" => "one word; docs/configuration.md lists them",
                other => other,
            };
            (found_value(found.trim()), format!("write {wanted}"))
        }
        _ => {
            // The value stands first, in backquotes, and may contain what separates the parts.
            let behind = ["` is ", "` has "].iter().filter_map(|verb| message.find(verb)).min().unwrap_or(0);
            let at = message[behind..].find(": ").map(|at| behind + at);
            let (what, remedy) = at.map_or((message, "correct it"), |at| (&message[..at], &message[at + 2..]));
            (format!("is invalid: {what}"), remedy.to_owned())
        }
    }
}

/// `string "15s"` and `integer `15`` without their types.
fn found_value(found: &str) -> String {
    match (found, found.find(['"', '`']), found.rfind(['"', '`'])) {
        ("unit value", ..) => "is empty".to_owned(),
        ("sequence", ..) => "is a list".to_owned(),
        ("map", ..) => "is a map".to_owned(),
        (_, Some(first), Some(last)) if first < last => format!("is `{}`", &found[first + 1..last]),
        _ => format!("is {found}"),
    }
}

fn suggestion(written: &str, known: &[&str]) -> String {
    let similarity = |key: &str| strsim::normalized_damerau_levenshtein(&written.to_lowercase(), key);
    let nearest = known.iter().map(|key| (similarity(key), key)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .map_or_else(String::new, |(_, key)| format!("did you mean `{key}`? "))
}

fn problem(key: &[String], what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem::new(&key.iter().map(String::as_str).collect::<Vec<_>>(), what, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const APP: &str = "upstreams: {app: {servers: [127.0.0.1:3000]}}";

    #[test]
    fn what_serde_yaml_says_is_explained() {
        let deep = format!("routes: {}", "[".repeat(200));
        for (text, wanted) in [
            // Keys with what separates the parts of a message of serde or of serde_yaml.
            ("'lis`ten': 1", "lis`ten is not a known key; did you mean `listen`? known keys here: `listen`, "),
            ("upstreams: {'a: b': {server: 5}}", "upstreams.a: b.server is not a known key; did you mean `servers`?"),
            ("upstreams: {7: {servers: 5}}", "upstreams[7].servers is `5`; write a list"),
            ("routes: [{heartbeat: 'a, expected b'}]", "routes[0].heartbeat is `a, expected b`; write a map"),
            // A key without a value is not an empty list, which would trust nobody.
            ("trusted_proxies:", "trusted_proxies is empty; write a list"),
            ("threads: 1.5", "threads is `1.5`; write a whole number"),
            ("routes: [{stream: {a: b}}]", "routes[0].stream is a map; write one word"),
            ("routes: [{name: [a]}]", "routes[0].name is a list; write text"),
            (
                "threads: 1\nupstreams: {a: {servers: ['app: 3000']}}",
                "upstreams.a.servers[0] is invalid: `app: 3000` is not a valid server; its port is not",
            ),
            (
                "upstreams: {a: {servers: ['a: b://c']}}",
                "upstreams.a.servers[0] is invalid: `a: b://c` is not a valid server; `a: b` is not http",
            ),
            (
                "routes: [{timeouts: {idle: '5: 6'}}]",
                "routes[0].timeouts.idle is invalid: `5: 6` is not a valid duration; write a number",
            ),
            (
                "trusted_proxies: ['10.0.0.1: 8']",
                "trusted_proxies[0] is invalid: `10.0.0.1: 8` is not an address or a network; write one",
            ),
            // A tab is the cause only where the error is.
            ("access_log: \"a\n\tb\"\nroutes: [}", "routes is not valid YAML"),
            ("routes: [\n\t{stream: always}\n", "routes is not valid YAML"),
            ("routes:\n\t- {stream: always}\n", "the file is indented with a tab"),
            ("routes: !include routes.yaml", "routes has the YAML tag `!include`; remove the tag"),
            ("? [a]\n: b", "the file is not valid YAML: invalid type: sequence, expected a name before the colon"),
            ("routes: &a [*a]", "routes[0][0][0][0][0][0] nests lists and maps too deeply; "),
            (&deep, "routes[0][0][0][0][0][0] nests lists and maps too deeply; close the brackets"),
        ] {
            let upstreams = if text.contains("upstreams") { "" } else { APP };
            let problem = read::<Config>(&format!("{upstreams}\n{text}\n")).expect_err(text).to_string();
            assert!(problem.starts_with(wanted), "{text}: {problem}");
        }
    }

    #[test]
    fn an_alias_is_the_value_of_its_anchor() {
        let text = format!("{APP}\nroutes: [{{name: &a x, timeouts: &t {{idle: 7s}}}}, {{name: y, timeouts: *t}}]\n");
        let config: Config = read(&text).expect("valid");
        assert_eq!(config.routes[1].policy().timeouts.idle, Some(std::time::Duration::from_secs(7)));
    }
}
