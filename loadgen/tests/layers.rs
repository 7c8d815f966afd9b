//! Imports point one way: no file imports, directly or over others, one that imports it; and a module names only modules that
//! stand before it in [`ORDER`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ORDER: [&str; 22] = [
    "clock",
    "stamp",
    "url",
    "protocol",
    "plan",
    "limits",
    "sse",
    "wire",
    "integrity",
    "distribution",
    "record",
    "client",
    "worker",
    "fleet",
    "origin",
    "target",
    "validity",
    "report",
    "cli",
    "error",
    "commands",
    "main",
];

/// A module's path below the crate, such as `["client", "tls"]`.
type Module = Vec<String>;
/// What each module imports.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Every module with its code: no comments, and nothing of its tests.
fn modules(root: &Path) -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    sources(root, &mut files);
    let is_code = |file: &&PathBuf| !file.ends_with("lib.rs") && !file.to_string_lossy().ends_with("_tests.rs");
    let module = |file: &PathBuf| {
        let inside = file.strip_prefix(root).expect("below the root").with_extension("");
        let parts = inside.iter().map(|part| part.to_string_lossy().into_owned());
        let text = fs::read_to_string(file).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (parts.filter(|part| part != "mod").collect(), code.join("\n"))
    };
    files.iter().filter(is_code).map(module).collect()
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The paths that `text` begins with: one, or as many as a list in braces names.
fn paths(text: &str) -> Vec<Module> {
    let text = text.trim_start();
    let name: String = text.chars().take_while(|letter| is_word(*letter)).collect();
    if name.is_empty() {
        return Vec::new();
    }
    let behind = |rest: Vec<Module>| rest.into_iter().map(|tail| [vec![name.clone()], tail].concat()).collect();
    let Some(rest) = text[name.len()..].strip_prefix("::") else { return vec![vec![name]] };
    let Some(list) = rest.trim_start().strip_prefix('{') else {
        let tails = paths(rest);
        return if tails.is_empty() { vec![vec![name]] } else { behind(tails) };
    };
    let (mut depth, mut start, mut tails) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                tails.extend(paths(&list[start..at]));
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    behind(tails)
}

/// What a module's code imports, by `use` or by naming a path.
fn imports(own: &Module, code: &str, modules: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("::") {
        let start = code[..at].rfind(|letter| !is_word(letter)).map_or(0, |before| before + 1);
        let before = code[..start].trim_end();
        // Not the beginning of a path, or a visibility.
        if code[..start].ends_with(':') || before.ends_with("(in") {
            continue;
        }
        for path in paths(&code[start..]) {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = match path[0].as_str() {
                "crate" | "sse_loadgen" => path[1..].to_vec(),
                "super" => [&own[..own.len().saturating_sub(ups)], &path[ups..]].concat(),
                "self" => [&own[..], &path[1..]].concat(),
                // A child of its own, or something from elsewhere.
                _ => [&own[..], &path[..]].concat(),
            };
            let longest = (1..=base.len()).rev().map(|parts| base[..parts].to_vec());
            found
                .extend(longest.into_iter().find(|module| modules.contains_key(module)).filter(|module| module != own));
        }
    }
    found
}

fn graph(modules: &BTreeMap<Module, String>) -> Graph {
    modules.iter().map(|(own, code)| (own.clone(), imports(own, code, modules))).collect()
}

/// A way from a module back to itself, if there is one.
fn cycle(graph: &Graph) -> Option<Vec<Module>> {
    let mut done = BTreeSet::new();
    fn walk(graph: &Graph, at: &Module, way: &mut Vec<Module>, done: &mut BTreeSet<Module>) -> bool {
        if let Some(from) = way.iter().position(|before| before == at) {
            way.drain(..from);
            return true;
        }
        if done.contains(at) {
            return false;
        }
        way.push(at.clone());
        if graph.get(at).into_iter().flatten().any(|next| walk(graph, next, way, done)) {
            return true;
        }
        way.pop();
        done.insert(at.clone());
        false
    }
    graph.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(graph, module, &mut way, &mut done).then_some(way)
    })
}

fn rank(module: &str) -> usize {
    ORDER.iter().position(|known| *known == module).unwrap_or_else(|| panic!("`{module}` has no place in the order"))
}

/// Imports of a module that stands further up.
fn upward(graph: &Graph) -> Vec<String> {
    let pairs = graph.iter().flat_map(|(own, found)| found.iter().map(move |named| (own, named)));
    let is_upward = |(own, named): &(&Module, &Module)| own[0] != named[0] && rank(&named[0]) > rank(&own[0]);
    pairs.filter(is_upward).map(|(own, named)| format!("{} imports {}", own.join("::"), named.join("::"))).collect()
}

#[test]
fn imports_point_one_way() {
    let graph = graph(&modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    assert_eq!(upward(&graph), Vec::<String>::new());
    assert_eq!(cycle(&graph), None);
    let imports: usize = graph.values().map(BTreeSet::len).sum();
    assert!(graph.len() > 80 && imports > 300, "{} files, {imports} imports", graph.len());
}

#[test]
fn a_cycle_and_an_upward_import_are_found_however_they_are_written() {
    for (what, files, faults) in [
        (
            "none",
            vec![("client/tls", "use super::end::EndReason;"), ("client/end", "use std::io;\nuse crate::wire::head;")],
            0,
        ),
        (
            "of two siblings",
            vec![("client/tls", "use super::end::EndReason;"), ("client/end", "use super::{a, tls::{x, y}};")],
            1,
        ),
        (
            "by a path in code",
            vec![("client/tls", "fn f() { super::end::g() }"), ("client/end", "use crate::client::tls;")],
            1,
        ),
        (
            "over a third",
            vec![("wire/a", "use super::b;"), ("wire/b", "use super::c;"), ("wire/c", "use super::a;")],
            1,
        ),
        (
            "with what mod.rs exports",
            vec![("target", "pub use stack::Target;"), ("target/stack", "use super::TargetError;")],
            1,
        ),
        (
            "with what mod.rs calls",
            vec![("target", "fn f() { stack::g() }"), ("target/stack", "use super::{\n    f,\n};")],
            1,
        ),
        (
            "a visibility is no import",
            vec![("target", "pub use stack::Target;"), ("target/stack", "pub(in crate::target) struct X;")],
            0,
        ),
        (
            "upward",
            vec![
                ("wire/a", "use crate::{\n    clock, client::{\n        Io,\n    },\n};"),
                ("client", ""),
                ("clock", ""),
            ],
            1,
        ),
    ] {
        let module = |path: &str| path.split('/').map(ToOwned::to_owned).collect::<Module>();
        let files = files.into_iter().map(|(path, code)| (module(path), code.to_owned())).collect();
        let graph = graph(&files);
        let found = upward(&graph).len() + usize::from(cycle(&graph).is_some());
        assert_eq!(found, faults, "{what}: {graph:?}");
    }
}
