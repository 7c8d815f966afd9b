//! Imports point one way: a module may use those below it in this list, never those above, and no two files each other.
//! The tests that ARCHITECTURE.md names exist.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

/// From the bottom up. Modules on one line do not use each other.
const LAYERS: &[&[&str]] = &[
    &["sse", "wire", "sys", "threads"],
    &["logging"],
    &["headers"],
    &["stream"],
    &["failure", "limits"],
    &["exchange"],
    &["driver"],
    &["takeover"],
    &["config"],
    &["upstream"],
    &["certificate", "metrics", "routing"],
    &["access_log", "admin", "connections", "gateway", "listen"],
    &["fallback"],
    &["control"],
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

/// A file of the proxy by the path of its module: `driver/reactor/table.rs` is `["driver", "reactor", "table"]`.
type Module = Vec<String>;

/// Every file, with its code, without tests and comments.
fn files() -> BTreeMap<Module, String> {
    fn walk(directory: &Path, module: &Module, found: &mut BTreeMap<Module, String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let child = || module.iter().cloned().chain([name.clone()]).collect::<Module>();
            if path.is_dir() {
                walk(&path, &child(), found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // A `mod.rs` counts as its folder. Test modules may import anything.
                let module = if name == "mod" { module.clone() } else { child() };
                if !name.ends_with("_tests") {
                    found.insert(module, code(&std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &Vec::new(), &mut found);
    found
}

/// A source without comments, unit tests, and the names in `pub(in …)`.
fn code(source: &str) -> String {
    let own = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    let lines = own.lines().map(|line| line.split("//").next().unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = text.split("pub(in ").enumerate().fold(String::new(), |text, (at, part)| {
        let part = if at == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) };
        text + part
    });
    with_own_modules(&text)
}

/// In an inline module, `super` is the file itself.
fn with_own_modules(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().map(|line| {
        let begins = line.trim_start_matches("pub(crate) ").starts_with("mod ") && line.ends_with('{');
        inside = (inside && line != "}") || begins;
        if inside { line.replace("super::", "self::") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The single paths of a `use` tree: `a::{b, c::{d, e}}`.
fn flat(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let group = tree.split_once('{').and_then(|(prefix, rest)| Some((prefix, rest.rsplit_once('}')?.0)));
    let Some((prefix, group)) = group else {
        return vec![tree.split_whitespace().next().unwrap_or_default().to_owned()];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in group.chars() {
        match letter {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                parts.last_mut().unwrap().push(letter);
            }
        }
    }
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| flat(&format!("{prefix}{}", part.trim())))
        .collect()
}

/// Every path in a source: those of its `use` lines and those in its code.
fn paths(source: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut rest = String::new();
    for (at, part) in source.split("use ").enumerate() {
        let begins = at > 0 && source_ends_a_word(&rest);
        match part.split_once(';') {
            Some((tree, after)) if begins => {
                paths.extend(flat(tree));
                rest.push_str(after);
            }
            _ => rest.push_str(&[if at > 0 { "use " } else { "" }, part].concat()),
        }
    }
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    paths.extend(rest.split(|letter| !is_path(letter)).filter(|path| path.contains("::")).map(str::to_owned));
    paths
}

/// Whether a keyword may follow: `use` is one, `reuse` is not.
fn source_ends_a_word(text: &str) -> bool {
    text.chars().next_back().is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
}

/// The file that a path in `module` resolves to: the deepest on the path. The crate's root is ignored.
fn resolve(path: &str, module: &Module, files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut segments = path.split("::").filter(|segment| !segment.is_empty()).peekable();
    let is_child = |name: &str| files.contains_key(&[module.as_slice(), &[name.to_owned()]].concat());
    let mut at = match segments.peek().copied()? {
        "crate" | "sse_proxy" => {
            segments.next();
            Vec::new()
        }
        "self" => {
            segments.next();
            module.clone()
        }
        "super" => {
            let mut at = module.clone();
            while segments.next_if_eq(&"super").is_some() {
                at.pop();
            }
            at
        }
        name if is_child(name) => module.clone(),
        _ => return None,
    };
    for segment in segments {
        let deeper = [at.as_slice(), &[segment.to_owned()]].concat();
        if !files.contains_key(&deeper) && !files.keys().any(|known| known.starts_with(&deeper)) {
            break;
        }
        at = deeper;
    }
    (!at.is_empty() && at != *module).then_some(at)
}

/// Which files each file names.
fn imports(files: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let of =
        |module: &Module, source: &str| paths(source).iter().filter_map(|path| resolve(path, module, files)).collect();
    files.iter().map(|(module, source)| (module, of(module, source))).collect()
}

/// Import cycles, one for each strongly connected group of files.
fn cycles(imports: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let mut cycles: Vec<Vec<Module>> = Vec::new();
    for start in imports.keys() {
        if cycles.iter().flatten().any(|known| known == *start) {
            continue;
        }
        // Breadth first, so that the cycle is the shortest.
        let mut ways: VecDeque<Vec<Module>> = VecDeque::from([vec![(*start).clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            for next in imports.get(way.last().unwrap()).into_iter().flatten() {
                if next == *start {
                    cycles.push(way.clone());
                    ways.clear();
                    break;
                }
                if seen.insert(next.clone()) {
                    ways.push_back(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
        }
    }
    cycles
}

#[test]
fn no_module_imports_upward() {
    let files = files();
    let (mut checked, mut upward) = (0, Vec::new());
    for (module, used) in imports(&files) {
        // The root declares everything.
        if module == &["lib"] {
            continue;
        }
        for other in used.iter().filter(|other| other[0] != module[0]) {
            checked += 1;
            if layer(&other[0]) >= layer(&module[0]) {
                upward.push(format!("{} uses {}", module.join("/"), other.join("/")));
            }
        }
    }
    assert!(checked > 40, "only {checked} imports were found: the check is blind");
    assert!(upward.is_empty(), "imports that do not point down:\n{}", upward.join("\n"));
}

/// Also inside a folder: a child imports from a sibling directly, not through the `mod.rs` that re-exports it.
#[test]
fn no_files_import_each_other_in_a_cycle() {
    let files = files();
    let imports = imports(&files);
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(count > 150, "only {count} imports were found: the check is blind");
    let shown = |cycle: &Vec<Module>| cycle.iter().map(|module| module.join("/")).collect::<Vec<_>>().join(" → ");
    let cycles: Vec<String> = cycles(&imports).iter().map(shown).collect();
    assert!(cycles.is_empty(), "import cycles:\n{}", cycles.join("\n"));
}

/// Every source below a folder, tests included, as one text.
fn all_sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&all_sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
    text
}

#[test]
fn each_invariant_names_tests_that_exist() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(crate_root.join("../ARCHITECTURE.md")).unwrap();
    let (_, table) = page.split_once("### Invariants").unwrap();
    let (table, _) = table.split_once("\n### ").unwrap();
    let sources = ["src", "tests"].map(|folder| all_sources(&crate_root.join(folder))).concat();
    let (mut rows, mut missing) = (0, Vec::new());
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test for: {row}");
        let exists = |name: &str| match name.ends_with(".rs") {
            true => crate_root.join("tests/it").join(name).is_file(),
            false => sources.contains(&format!("fn {name}(")),
        };
        missing.extend(names.into_iter().filter(|name| !exists(name)));
        rows += 1;
    }
    assert!(rows >= 6, "only {rows} invariants were found: the check is blind");
    assert!(missing.is_empty(), "tests that ARCHITECTURE.md names and that do not exist: {missing:?}");
}

#[test]
fn the_check_detects_imports_and_cycles() {
    let module = |path: &str| -> Module { path.split('/').map(str::to_owned).collect() };
    let source = |text: &str| code(text);
    let files = BTreeMap::from([
        (module("a"), source("mod b;\nmod c;\npub use b::{B, D};\npub(in crate::d) struct S;")),
        (module("a/b"), source("use std::{io, fmt};\nuse super::c::{\n    C,\n    E as F,\n};\n// use crate::d;")),
        (
            module("a/c"),
            source("fn f() -> crate::a::B { reuse super::b::g() }\n#[cfg(test)]\nmod tests {\nuse crate::d;}"),
        ),
        (module("d"), source("use crate::{a::{self, B}, e::f::G};")),
        (module("e/f"), source("mod own {\n    use super::*;\n    use super::super::f;\n}\nfn f() {}")),
    ]);
    let imports = imports(&files);
    let of = |path: &str| imports[&module(path)].iter().map(|other| other.join("/")).collect::<Vec<_>>();
    assert_eq!((of("a"), of("a/b"), of("d")), (vec!["a/b".into()], vec!["a/c".into()], vec!["a".into(), "e/f".into()]));
    assert_eq!(of("a/c"), ["a", "a/b"]);
    assert_eq!(cycles(&imports), [vec![module("a"), module("a/b"), module("a/c")]]);
    assert!(layer("server") > layer("stream"));
}
