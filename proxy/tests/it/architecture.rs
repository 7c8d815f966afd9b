//! Imports point one way: a module may use those below it in this list, never those above.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules on one line do not use each other.
const LAYERS: &[&[&str]] = &[
    &["sse", "wire", "sys", "threads"],
    &["logging"],
    &["headers"],
    &["stream"],
    &["failure"],
    &["driver"],
    &["takeover"],
    &["config"],
    &["upstream", "metrics"],
    &["access_log", "admin", "connections", "gateway", "listen"],
    &["fallback"],
    &["server"],
    &["cli"],
    &["main"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` has no place in LAYERS: give it one"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The top-level modules that a source names, in `use` lines and in paths.
fn used(source: &str) -> BTreeSet<&str> {
    let own = source.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(source);
    own.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| {
            line.match_indices("crate::")
                .chain(line.match_indices("sse_proxy::"))
                .map(move |(at, found)| &line[at + found.len()..])
        })
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => group.split(&[',', '}'][..]).map(str::trim).collect(),
            None => vec![rest],
        })
        .map(|rest| rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_').next().unwrap_or_default())
        .filter(|module| !module.is_empty())
        .collect()
}

#[test]
fn no_module_imports_upward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut checked, mut upward) = (0, Vec::new());
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for other in used(&std::fs::read_to_string(file).unwrap()) {
            checked += 1;
            if other != module && layer(other) >= layer(module) {
                upward.push(format!("{}: uses {other}", relative.display()));
            }
        }
    }
    assert!(checked > 40, "only {checked} imports were found: the check is blind");
    assert!(upward.is_empty(), "imports that do not point down:\n{}", upward.join("\n"));
}

#[test]
fn the_check_sees_what_it_is_for() {
    assert_eq!(
        used("use crate::server::run;\nfn a() { crate::cli::b() }\nuse crate::{sse, wire::body};"),
        BTreeSet::from(["cli", "server", "sse", "wire"])
    );
    assert!(layer("server") > layer("stream"));
}
