//! The published schema of the reports accepts what the program writes, and nothing less.

mod support;

use std::path::Path;

use serde_json::{Map, Value};
use support::{origin, program, text};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("docs/report.schema.json")).expect("JSON")
}

/// What of JSON Schema (draft 2020-12) the file uses; a keyword that is not known here fails the test.
const KEYWORDS: [&str; 14] = [
    "$defs",
    "$ref",
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "description",
    "enum",
    "items",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
];

/// Collects what `value` at `path` violates of `schema`.
fn validate(root: &Value, schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else {
        if schema == &Value::Bool(false) {
            faults.push(format!("{path}: not in the schema"));
        }
        return;
    };
    for keyword in rules.keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "{keyword}: this test does not know it");
    }
    if let Some(name) = rules.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
        validate(root, target, value, path, faults);
    }
    if let Some(choices) = rules.get("anyOf").and_then(Value::as_array) {
        let all: Vec<Vec<String>> = choices
            .iter()
            .map(|choice| {
                let mut own = Vec::new();
                validate(root, choice, value, path, &mut own);
                own
            })
            .collect();
        if let Some(nearest) = all.iter().min_by_key(|own| own.len()).filter(|nearest| !nearest.is_empty()) {
            faults.extend(nearest.iter().cloned());
        }
    }
    if rules.get("const").is_some_and(|expected| expected != value) {
        faults.push(format!("{path}: {value} instead of {}", rules["const"]));
    }
    if rules.get("enum").and_then(Value::as_array).is_some_and(|allowed| !allowed.contains(value)) {
        faults.push(format!("{path}: {value} is none of {}", rules["enum"]));
    }
    let types: Vec<&str> = match rules.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name],
        _ => Vec::new(),
    };
    let is_a = |name: &&str| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}: no such type"),
    };
    if !types.is_empty() && !types.iter().any(is_a) {
        faults.push(format!("{path}: {value} is no {}", types.join(" or ")));
    }
    if let (Some(least), Some(number)) = (rules.get("minimum").and_then(Value::as_f64), value.as_f64())
        && number < least
    {
        faults.push(format!("{path}: {number} is below {least}"));
    }
    if let (Some(items), Some(values)) = (rules.get("items"), value.as_array()) {
        for (at, item) in values.iter().enumerate() {
            validate(root, items, item, &format!("{path}/{at}"), faults);
        }
    }
    if let Some(fields) = value.as_object() {
        let empty = Map::new();
        let known = rules.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for name in rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                faults.push(format!("{path}: {name} is missing"));
            }
        }
        for (name, field) in fields {
            if let Some(rule) = known.get(name).or(rules.get("additionalProperties")) {
                validate(root, rule, field, &format!("{path}/{name}"), faults);
            }
        }
    }
}

fn faults(document: &Value) -> Vec<String> {
    let (schema, mut faults) = (schema(), Vec::new());
    validate(&schema, &schema, document, "", &mut faults);
    faults
}

/// Runs a command with `--json` and returns the document.
fn written(directory: &Path, name: &str, arguments: &[&str]) -> Value {
    let path = directory.join(name);
    let output = program().args(arguments).arg("--json").arg(&path).output().expect("the program starts");
    let document = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {}{}", text(&output.stdout), text(&output.stderr)));
    serde_json::from_str(&document).expect("JSON")
}

#[test]
fn what_the_program_writes_is_what_the_schema_says() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let url = format!("http://{address}/events?interval=10ms&count=5");
    let run = written(directory.path(), "run.json", &["run", "-c", "3", "-d", "20s", &url]);
    written(directory.path(), "other.json", &["run", "-c", "2", "-d", "20s", "-X", "POST", &url]);
    let merged = written(directory.path(), "merged.json", &["merge", &path("run.json"), &path("other.json")]);
    let small = [
        "compare",
        "--streams",
        "4",
        "--rounds",
        "1",
        "--interval",
        "100ms",
        "--heartbeat",
        "200ms",
        "--duration",
        "300ms",
    ];
    let started = written(directory.path(), "compare.json", &[&small[..], &["--targets", "direct"]].concat());
    let (origin, service) = (format!("http://{address}"), format!("direct=http://{address}"));
    let attached = ["--origin", origin.as_str(), "--service", service.as_str()];
    let attached = written(directory.path(), "services.json", &[&small[..], &attached[..]].concat());
    for document in [&run, &merged, &started, &attached] {
        assert_eq!(faults(document), Vec::<String>::new(), "{}", document["kind"]);
    }
    assert_eq!(
        (merged["parts"].as_array().map(Vec::len), attached["services"].as_object().map(Map::len)),
        (Some(2), Some(1))
    );
}

#[test]
fn the_schema_notices_what_is_missing_new_or_of_another_type() {
    let (_origin, address) = origin();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("http://{address}/events?interval=10ms&count=2");
    let run = written(directory.path(), "run.json", &["run", "-c", "1", "-d", "20s", &url]);
    let mut missing = run.clone();
    missing["counts"].as_object_mut().expect("counts").remove("bytes");
    let mut new = run.clone();
    new["integrity"]["misplaced"] = 1.into();
    let mut other = run;
    other["seconds"] = "ten".into();
    for (document, expected) in [
        (missing, "/counts: bytes is missing"),
        (new, "/integrity/misplaced: not in"),
        (other, "/seconds: \"ten\" is no number"),
    ] {
        let faults = faults(&document);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{expected}: {faults:?}");
    }
}
