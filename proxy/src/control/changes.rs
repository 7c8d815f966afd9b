//! What differs between two configurations: what a reload cannot change, and what it reports.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::config::{Config, Problem};

/// Refuses what only a new process can change.
pub(super) fn check(before: &Config, after: &Config) -> Result<(), Problem> {
    let admin = |config: &Config| {
        let of = |admin: &crate::config::Admin| {
            let token = admin.token_file.as_ref().map(|path| format!(" with token_file {}", path.display()));
            format!("{}{}", admin.address, token.unwrap_or_default())
        };
        config.admin.as_ref().map(of)
    };
    let cases = [
        ("threads", shown(&before.threads), shown(&after.threads)),
        ("driver", format!("{:?}", before.driver).to_lowercase(), format!("{:?}", after.driver).to_lowercase()),
        ("admin", shown(&admin(before)), shown(&admin(after))),
        (
            "pid_file",
            shown(&before.pid_file.as_ref().map(|path| path.display().to_string())),
            shown(&after.pid_file.as_ref().map(|path| path.display().to_string())),
        ),
    ];
    for (key, before, after) in cases {
        if before != after {
            let what = format!("is {after}, and the process runs with {before}, which a reload cannot change");
            return Err(Problem::new(&[key], what, "restart the process, or set the former value again"));
        }
    }
    Ok(())
}

fn shown<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("`{}`", value.to_string()))
}

/// What has changed beside the listeners, one line for each kind.
pub(super) fn list(before: &Config, after: &Config) -> Vec<String> {
    fn by_name(routes: &[crate::config::Route]) -> BTreeMap<&str, String> {
        routes.iter().map(|route| (route.display_name(), format!("{route:?}"))).collect()
    }
    let upstreams = |config: &Config| -> BTreeMap<String, String> {
        config.upstreams.iter().map(|(name, upstream)| (name.clone(), format!("{upstream:?}"))).collect()
    };
    let (routes_before, routes_after) = (before.effective_routes(), after.effective_routes());
    let mut changes: Vec<String> = difference("upstreams", &upstreams(before), &upstreams(after)).into_iter().collect();
    changes.extend(difference("routes", &by_name(&routes_before), &by_name(&routes_after)));
    let names = |routes: &[crate::config::Route]| -> Vec<String> {
        routes.iter().map(|route| route.display_name().to_owned()).collect()
    };
    let (order_before, order_after) = (names(&routes_before), names(&routes_after));
    let in_both = |order: &[String], other: &[String]| -> Vec<String> {
        order.iter().filter(|name| other.contains(name)).cloned().collect()
    };
    if in_both(&order_before, &order_after) != in_both(&order_after, &order_before) {
        changes.push("routes: another order".to_owned());
    }
    let differs = |before: &dyn Debug, after: &dyn Debug| format!("{before:?}") != format!("{after:?}");
    let sections = [
        ("trusted_proxies", differs(&before.trusted_proxies(), &after.trusted_proxies())),
        ("client", differs(&before.client, &after.client)),
        ("limits", differs(&before.limits, &after.limits)),
        ("drain", differs(&before.drain, &after.drain)),
        ("access_log", before.access_log != after.access_log),
    ];
    changes.extend(sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| format!("{name}: changed")));
    changes
}

/// `upstreams: changed app; added model`.
fn difference<K: AsRef<str> + Ord>(
    what: &str,
    before: &BTreeMap<K, String>,
    after: &BTreeMap<K, String>,
) -> Option<String> {
    let names = |names: Vec<&K>| names.into_iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    let changed = after.iter().filter(|(name, value)| before.get(*name).is_some_and(|before| before != *value));
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let removed = before.keys().filter(|name| !after.contains_key(*name));
    let kinds = [
        ("changed", names(changed.map(|(name, _)| name).collect())),
        ("added", names(added.collect())),
        ("removed", names(removed.collect())),
    ];
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(kind, names)| format!("{kind} {names}"))
        .collect();
    (!kinds.is_empty()).then(|| format!("{what}: {}", kinds.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Config {
        let upstreams = if text.contains("upstreams") { "" } else { "\nupstreams: {app: {servers: ['127.0.0.1:1']}}" };
        Config::parse(Path::new("test.yaml"), &format!("{text}{upstreams}")).expect("valid")
    }

    #[test]
    fn what_has_changed_is_reported_by_name() {
        let two = "routes: [{match: {path_prefix: /a}}, {match: {path_prefix: /b}}]";
        let cases: &[(&str, &str, &[&str])] = &[
            ("", "routes: [{}]", &[]),
            ("", "trusted_proxies: ['127.0.0.0/8', '::1']", &[]),
            ("routes: [{timeouts: {idle: 1m}}]", "routes: [{timeouts: {idle: 60s}}]", &[]),
            ("", "trusted_proxies: []", &["trusted_proxies: changed"]),
            ("", "drain: {timeout: 1m}\nclient: {limits: {fields: 50}}", &["client: changed", "drain: changed"]),
            ("", "limits: {streams: 9}", &["limits: changed"]),
            ("", "routes: [{limits: {streams: 9}}]", &["routes: changed /"]),
            ("", "access_log: off", &["access_log: changed"]),
            ("", two, &["routes: added /a, /b; removed /"]),
            (two, "routes: [{match: {path_prefix: /b}}, {match: {path_prefix: /a}}]", &["routes: another order"]),
            (
                "upstreams: {app: {servers: ['127.0.0.1:1']}}",
                "upstreams: {app: {servers: ['127.0.0.1:2']}, model: {servers: ['127.0.0.1:3']}}\nroutes: [{upstream: app}]",
                &["upstreams: changed app; added model", "routes: changed /"],
            ),
        ];
        for (before, after, wanted) in cases {
            assert_eq!(list(&parse(before), &parse(after)), *wanted, "{before} → {after}");
        }
    }

    #[test]
    fn what_needs_a_new_process_is_refused_with_its_key() {
        let cases = [
            ("threads: 2", "", "threads is not set, and the process runs with `2`"),
            ("", "driver: task", "driver is task, and the process runs with parked"),
            ("admin: {address: '127.0.0.1:1'}", "", "admin is not set, and the process runs with `127.0.0.1:1`"),
            ("", "pid_file: /run/a.pid", "pid_file is `/run/a.pid`, and the process runs with not set"),
        ];
        for (before, after, wanted) in cases {
            let problem = check(&parse(before), &parse(after)).expect_err(wanted).to_string();
            assert!(problem.starts_with(wanted) && problem.contains("restart the process"), "{problem}");
            assert!(check(&parse(before), &parse(before)).is_ok());
        }
    }
}
