//! The published schema of the reports, and a validator of as much of JSON Schema as it uses.

use std::path::Path;

use serde_json::{Map, Value};

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

/// What of a document is not as the published schema says.
pub(crate) fn faults(document: &Value) -> Vec<String> {
    let (schema, mut faults) = (schema(), Vec::new());
    validate(&schema, &schema, document, "", &mut faults);
    faults
}
