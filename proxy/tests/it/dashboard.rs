//! Checks the dashboard and the Prometheus configuration of `docker/observe`, and the alert rules of `deploy/prometheus`, against the
//! existing metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every series a query may name, with its labels, from the table in docs/operations.md; another test holds that to the code.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for row in read("docs/operations.md").lines().filter(|line| line.starts_with("| `sse_proxy_")) {
        let metric = row.split('`').nth(1).expect("a name");
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let labels: BTreeSet<String> =
            labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        match row.contains("| Histogram") {
            false => drop(series.insert(name.to_owned(), labels)),
            true => {
                let with_le = labels.iter().cloned().chain(["le".to_owned()]).collect();
                series.insert(format!("{name}_bucket"), with_le);
                series.insert(format!("{name}_count"), labels.clone());
                series.insert(format!("{name}_sum"), labels);
            }
        }
    }
    series
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

#[test]
fn every_metric_and_label_of_the_dashboard_exists() {
    let series = series();
    assert!(series.len() > 15 && series.contains_key("sse_proxy_first_byte_seconds_bucket"), "{series:?}");
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("docker/observe/dashboards/sse-proxy.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut used = BTreeSet::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")) {
        let expression = target["expr"].as_str().expect("an expression");
        let named: Vec<&str> = words(expression).filter(|word| word.starts_with("sse_proxy_")).collect();
        assert!(!named.is_empty(), "{expression}");
        for name in &named {
            assert!(series.contains_key(*name), "{expression}: there is no {name}");
        }
        // `by (route)`, `without (route)`: labels that the metrics of the expression have.
        let groups = expression.split(" by (").skip(1).chain(expression.split(" without (").skip(1));
        for label in groups.filter_map(|rest| rest.split(')').next()).flat_map(words) {
            assert!(named.iter().any(|name| series[*name].contains(label)), "{expression}: no label {label}");
        }
        let legend = target["legendFormat"].as_str().expect("a legend");
        for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            assert!(
                expression.contains(&format!("({label})")),
                "{expression}: {legend} names a label that is not kept"
            );
        }
        used.extend(named);
        assert_eq!(target["datasource"]["uid"], "prometheus", "{expression}");
    }
    assert!(used.len() >= 12, "{used:?}");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels share an id");
}

/// Reasons in selectors, too: a misspelt one never fires. `scripts/check-deploy` tests what the rules do.
#[test]
fn every_metric_and_reason_of_the_alerts_exists() {
    let series = series();
    let rules: serde_yaml::Value = serde_yaml::from_str(&read("deploy/prometheus/alerts.yaml")).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_sequence().expect("rules");
    assert!(rules.len() >= 7, "{rules:?}");
    let page = read("docs/operations.md");
    for rule in rules {
        let (alert, expression) =
            (rule["alert"].as_str().expect("a name"), rule["expr"].as_str().expect("an expression"));
        for name in words(expression).filter(|word| word.starts_with("sse_proxy_")) {
            assert!(series.contains_key(name), "{alert}: there is no {name}");
        }
        for reason in expression.split("reason=~\"").skip(1).filter_map(|rest| rest.split('"').next()).flat_map(words) {
            assert!(page.contains(&format!("| `{reason}` |")), "{alert}: there is no reason {reason}");
        }
        assert!(page.contains(&format!("| `{alert}` |")), "docs/operations.md does not say what to do about {alert}");
    }
}

#[test]
fn prometheus_scrapes_the_address_of_the_compose_file() {
    let sources = read("docker/observe/provisioning/datasources/prometheus.yml");
    assert!(sources.contains("uid: prometheus\n"), "the dashboard's data source: {sources}");
    let address = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(key)).expect("an address").to_owned();
        line.rsplit(':').next().expect("a port").trim_matches(|letter: char| !letter.is_ascii_digit()).to_owned()
    };
    let asked = read("docker/observe/prometheus.yml");
    assert!(asked.contains("\"proxy:"), "{asked}");
    let proxy = read("docker/sse-proxy.yaml");
    let admin = proxy.split("\nadmin:\n").nth(1).expect("an admin listener");
    assert_eq!(address(&asked, "- targets"), address(admin, "address"));
}
