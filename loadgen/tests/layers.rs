//! Imports point one way: a module may only name modules that stand before it in this list.

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

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

fn rank(module: &str) -> usize {
    ORDER.iter().position(|known| *known == module).unwrap_or_else(|| panic!("`{module}` has no place in the order"))
}

#[test]
fn no_module_imports_upward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut imports = 0;
    for file in files.iter().filter(|file| !file.ends_with("lib.rs")) {
        let inside = file.strip_prefix(&root).expect("below src").with_extension("");
        let own = inside.iter().next().and_then(|part| part.to_str()).expect("a module");
        let text = fs::read_to_string(file).expect("readable");
        for (line_number, line) in text.lines().enumerate() {
            for rest in line.split("crate::").skip(1).chain(line.split("sse_loadgen::").skip(1)) {
                let named: String =
                    rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
                if named.is_empty() || named == own {
                    continue;
                }
                imports += 1;
                assert!(rank(&named) < rank(own), "{}:{}: `{own}` imports `{named}`", file.display(), line_number + 1);
            }
        }
    }
    assert!(files.len() > 40 && imports > 60, "{} files, {imports} imports", files.len());
}
