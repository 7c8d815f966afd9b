//! `routes[].headers`, `routes[].strip_prefix` and `routes[].add_prefix`: what a route changes in heads.

use std::collections::BTreeMap;

use http::header;
use serde::{Deserialize, Deserializer};

use super::error::Problem;
use super::fields::{FieldName, FieldValue};
use super::matching::{Match, PathMatch};
use super::values;
use crate::headers::{FieldChanges, Reserved, Value, reserved};

/// Changes to the heads of a route's requests and their responses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `headers: {response: {remove: [Server]}}`")]
pub struct HeadersConfig {
    /// Of requests as they go to the upstream (`proxy_set_header`).
    pub request: ChangesConfig,
    /// Of the upstream's final responses as they go to clients (`add_header`, `proxy_hide_header`).
    pub response: ChangesConfig,
}

/// Changes to the fields of a head: first removed, then set, then added.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a map, such as `{set: {X-Tenant: blue}, remove: [X-Debug]}`")]
pub struct ChangesConfig {
    /// Fields in place of those with the same name.
    #[serde(deserialize_with = "set")]
    pub set: BTreeMap<String, FieldValue>,
    /// Fields beside those with the same name.
    #[serde(deserialize_with = "add")]
    pub add: BTreeMap<String, Values>,
    /// Fields that do not go on.
    #[serde(deserialize_with = "remove")]
    pub remove: Vec<FieldName>,
}

/// The values of one or more fields with the same name.
#[derive(Clone, Debug)]
pub struct Values(pub Vec<FieldValue>);

/// Whose head is changed.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Response,
}

impl HeadersConfig {
    /// The changes to requests, and those to responses.
    pub(super) fn compile(&self) -> (FieldChanges, FieldChanges) {
        (self.request.compile(), self.response.compile())
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        for (key, changes, direction) in
            [("request", &self.request, Direction::Request), ("response", &self.response, Direction::Response)]
        {
            changes.check(direction).map_err(|problem| problem.under(&["headers", key]))?;
        }
        Ok(())
    }
}

impl ChangesConfig {
    fn compile(&self) -> FieldChanges {
        // The check of the configuration has read each value already.
        let value = |field: &FieldValue| read(field).unwrap_or(Value::Fixed(field.0.clone()));
        let set = self.set.iter().map(|(name, field)| (name.as_str(), value(field)));
        let add =
            self.add.iter().flat_map(|(name, fields)| fields.0.iter().map(move |field| (name.as_str(), value(field))));
        FieldChanges::default().removing(self.remove.iter().map(|field| field.name.clone())).setting(set).adding(add)
    }

    fn check(&self, direction: Direction) -> Result<(), Problem> {
        for (at, field) in self.remove.iter().enumerate() {
            let key = ["remove", &at.to_string()];
            check_name(&key, field, "remove", direction)?;
            if let Some(set) = self.set.keys().find(|name| name.eq_ignore_ascii_case(&field.written)) {
                let what = format!("is `{}`, which is set, too", field.written);
                return Err(Problem::new(
                    &key,
                    what,
                    format!("remove it here: `set: {{{set}: …}}` replaces the field"),
                ));
            }
        }
        for (name, value) in &self.set {
            check_entry(["set", name], &self.set, direction)?;
            check_value(&["set", name], value, direction)?;
        }
        for (name, values) in &self.add {
            check_entry(["add", name], &self.add, direction)?;
            values.0.iter().try_for_each(|value| check_value(&["add", name], value, direction))?;
        }
        Ok(())
    }
}

/// Checks the name of an entry of `set` or `add`, beside the others there.
fn check_entry<V>(key: [&str; 2], entries: &BTreeMap<String, V>, direction: Direction) -> Result<(), Problem> {
    let [action, name] = key;
    let field: FieldName = name.parse().map_err(|_| {
        let remedy = "use letters, digits and dashes, such as X-Tenant";
        Problem::new(&key, "is not a valid field name", remedy)
    })?;
    check_name(&key, &field, action, direction)?;
    if let Some(other) = entries.keys().find(|other| *other != name && other.eq_ignore_ascii_case(name)) {
        let what = format!("is the same field as `{other}`: names have no case");
        return Err(Problem::new(&key, what, "remove one of the two"));
    }
    Ok(())
}

/// Refuses the fields that the proxy sets or removes itself.
fn check_name(key: &[&str], field: &FieldName, action: &str, direction: Direction) -> Result<(), Problem> {
    let refuse = |why: &str, remedy: &str| Err(Problem::new(key, format!("names `{}`, {why}", field.written), remedy));
    let is_request = direction == Direction::Request;
    match reserved(&field.name) {
        // An HTTP gateway may leave it out of responses (RFC 9110 §7.6.3).
        Some(Reserved::Via) if !is_request && action == "remove" => return Ok(()),
        Some(Reserved::Via) => return refuse("which the proxy adds itself to find loops", "remove it here"),
        Some(Reserved::Connection) => {
            return refuse("which belongs to one connection: the proxy sets it itself", "remove it here");
        }
        Some(Reserved::Body) => {
            return refuse("which describes the body: the proxy does not change that", "remove it here");
        }
        None => {}
    }
    if is_request && field.name == header::HOST && action != "set" {
        return refuse("of which a request has exactly one", "write it under `set`");
    }
    if is_request && field.name == header::ACCEPT_ENCODING && action != "remove" {
        let why = "and heartbeats cannot be added to an encoded stream";
        return refuse(why, "write it under `remove`, for responses without a coding");
    }
    if is_request && action == "remove" && field.written.contains('_') {
        return refuse("and fields with an underscore are always removed", "remove it here");
    }
    Ok(())
}

/// A value as it is sent, or the name in it that is not a variable.
fn read(field: &FieldValue) -> Result<Value, String> {
    Value::parse(&String::from_utf8_lossy(field.0.as_bytes()))
}

/// Refuses names that are not variables: they would be sent as they are written.
fn check_value(key: &[&str], field: &FieldValue, direction: Direction) -> Result<(), Problem> {
    let text = String::from_utf8_lossy(field.0.as_bytes());
    let dollar = "`$$` is a dollar sign";
    match (read(field), direction) {
        (Ok(Value::Fixed(_)), _) | (Ok(_), Direction::Request) => Ok(()),
        (Ok(_), Direction::Response) => {
            let what = format!("is `{text}`, and only requests have variables");
            Err(Problem::new(key, what, format!("write fixed text; {dollar}")))
        }
        (Err(name), _) => {
            let known = Value::variables().map(|name| format!("`${name}`")).collect::<Vec<_>>().join(", ");
            let what = format!("is `{text}`, and `{name}` is not a variable");
            Err(Problem::new(key, what, format!("write fixed text or one of {known}; {dollar}")))
        }
    }
}

/// Checks `strip_prefix` and `add_prefix` beside `match`.
pub(super) fn check_prefixes(strip: bool, add: Option<&str>, matches: &Match) -> Result<(), Problem> {
    let (key, path) = matches.path_key();
    if strip && path.trim_end_matches('/').is_empty() {
        let what = format!("is true, and match.{key} is `{path}`: there is nothing to remove");
        return Err(Problem::new(&["strip_prefix"], what, "remove it, or match a longer path"));
    }
    if let (true, PathMatch::Prefix(prefix)) = (strip, matches.path())
        && !prefix.ends_with('/')
    {
        let what = format!("is true, and match.path_prefix `{prefix}` may end within a name, such as `{prefix}x`");
        return Err(Problem::new(&["strip_prefix"], what, format!("match `path_segment_prefix: {prefix}`")));
    }
    if add.is_some_and(|add| add.trim_end_matches('/').is_empty()) {
        return Err(Problem::new(&["add_prefix"], "is `/`, which adds nothing", "remove it"));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::one_or_list(deserializer, "text or a list of texts").map(Self)
    }
}

fn set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, FieldValue>, D::Error> {
    values::by_name(deserializer, "a map of fields: `set: {X-Tenant: blue}`")
}

fn add<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Values>, D::Error> {
    values::by_name(deserializer, "a map of fields: `add: {Link: '</app.css>; rel=preload'}`")
}

fn remove<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FieldName>, D::Error> {
    values::one_or_list(deserializer, "a field or a list: `remove: [Server, X-Powered-By]`")
}
