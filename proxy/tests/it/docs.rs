//! Holds `docs/` to the code: what it names exists, what exists is named, and its examples are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sse_proxy::config::Config;
use sse_proxy::driver::{Ended, Observer, Route, StreamInfo};
use sse_proxy::metrics::Metrics;
use sse_proxy::stream::{Counts, EndReason, Policy};
use sse_proxy::takeover::Failure;

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages of the examples, from the root.
fn backends() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(root().join("examples/backends")).expect("examples/backends");
    entries.map(|entry| format!("examples/backends/{}/README.md", entry.expect("entry").file_name().display()))
}

/// The `yaml` code blocks of a page, each with its line.
fn yaml_blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in page.lines().enumerate() {
        match &mut open {
            None if line == "```yaml" => open = Some((at + 1, String::new())),
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, text)) => *text += &format!("{line}\n"),
        }
    }
    blocks
}

/// Parses an example; one without upstreams is a fragment, and gets one.
fn parse(name: &str, text: &str) -> Config {
    let mut text = text.to_owned();
    if !text.lines().any(|line| line.starts_with("upstreams:")) {
        text += "\nupstreams: {app: {servers: [127.0.0.1:3000]}}\n";
    }
    Config::parse(Path::new(name), &text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_example_is_accepted_without_warnings() {
    let mut examples = Vec::new();
    let mut pages = [
        "docs/configuration.md",
        "docs/heartbeats.md",
        "docs/operations.md",
        "docs/behind-nginx.md",
        "docs/in-front.md",
        "docs/recipes.md",
        "docs/quick-start.md",
        "README.md",
    ]
    .map(str::to_owned)
    .to_vec();
    pages.extend(backends());
    for page in pages {
        let Ok(text) = std::fs::read_to_string(root().join(&page)) else { continue };
        let blocks = yaml_blocks(&text).into_iter();
        examples.extend(blocks.map(|(line, text)| (format!("{page}, block at line {line}"), text)));
    }
    for entry in std::fs::read_dir(root().join("docs/examples")).expect("docs/examples") {
        let path = entry.expect("entry").path();
        examples.push((path.display().to_string(), std::fs::read_to_string(&path).expect("example")));
    }
    examples.push(("docker/sse-proxy.yaml".to_owned(), read("docker/sse-proxy.yaml")));
    assert!(examples.len() > 6, "only {} examples found", examples.len());
    for (name, text) in examples {
        let warnings = parse(&name, &text).warnings();
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let page = read("docs/configuration.md");
    let blocks = yaml_blocks(&page);
    let (_, documented) =
        blocks.iter().find(|(_, text)| text.contains("reuse_port: false")).expect("the block of defaults");
    let mut documented = parse("docs/configuration.md", documented);
    let default = parse("minimal", "");
    // The one route of the block is the one that stands in for an empty list.
    assert_eq!(format!("{:?}", documented.effective_routes()), format!("{:?}", default.effective_routes()));
    documented.routes.clear();
    assert_eq!(format!("{documented:?}"), format!("{default:?}"));
}

/// Every key of the configuration as the page writes it, read from the types: `routes[].match.path_prefix`.
fn keys_of_the_code() -> BTreeSet<String> {
    let source = read("proxy/src/config/mod.rs");
    let mut structs: BTreeMap<&str, Vec<(String, &str)>> = BTreeMap::new();
    let (mut current, mut renamed) = (None, None);
    for line in source.lines() {
        let code = line.trim();
        if let Some(rest) = code.strip_prefix("pub struct ") {
            current = rest.split([' ', '(', ';']).next();
        } else if line == "}" {
            current = None;
        } else if code.starts_with("#[serde") && code.contains("rename = \"") {
            renamed = code.split("rename = \"").nth(1).and_then(|rest| rest.split('"').next());
        } else if let (Some(name), Some((field, kind))) =
            (current, code.strip_prefix("pub ").and_then(|rest| rest.trim_end_matches(',').split_once(": ")))
        {
            let field = renamed.take().unwrap_or(field).to_owned();
            structs.entry(name).or_default().push((field, kind));
        }
    }
    fn walk(structs: &BTreeMap<&str, Vec<(String, &str)>>, name: &str, prefix: &str, keys: &mut BTreeSet<String>) {
        for (field, kind) in &structs[name] {
            let inner = kind.rsplit(['<', ' ']).next().unwrap_or(kind).trim_end_matches('>');
            let more = match *kind {
                kind if kind.starts_with("Vec<") => "[]",
                kind if kind.starts_with("BTreeMap<") => ".NAME",
                _ => "",
            };
            match structs.contains_key(inner) {
                true => walk(structs, inner, &format!("{prefix}{field}{more}."), keys),
                false => drop(keys.insert(format!("{prefix}{field}"))),
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk(&structs, "Config", "", &mut keys);
    keys
}

#[test]
fn every_key_is_documented_and_no_other() {
    let page = read("docs/configuration.md");
    let documented: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `"))
        .filter_map(|line| line.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    let keys = keys_of_the_code();
    assert!(keys.contains("routes[].match.path_prefix"), "the types were not understood: {keys:?}");
    assert_eq!(documented, keys);
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let metrics = Metrics::new();
    // Most of them show once they have counted something.
    let route = Route::new("events", Policy::default(), metrics.clone());
    metrics.watch(vec![route]);
    let info = StreamInfo::new(None, None, "GET", "/", Duration::ZERO);
    metrics.opened("events", &info);
    let (reason, duration, counts) = (EndReason::UpstreamEnd, Duration::ZERO, Counts::default());
    metrics.ended(&Ended { route: "events", info: &info, reason, clean: true, duration, counts });
    metrics.refused("no_route");
    metrics.request(200);
    metrics.closed_connection("http2_idle");
    let rendered = metrics.render();
    let exposed: BTreeSet<&str> = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, _)| name)
        .collect();
    assert!(exposed.contains("sse_proxy_streams_active"), "{rendered}");
    let page = read("docs/operations.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `sse_proxy_"))
        .filter_map(|line| line.split(['`', '{']).next())
        .collect();
    let with_suffix = |name: &str| {
        let kind = rendered.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect("type");
        let name = name.trim_start_matches("sse_proxy_");
        match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    };
    let exposed: BTreeSet<String> = exposed.into_iter().map(with_suffix).collect();
    assert_eq!(documented.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), exposed);
}

#[test]
fn every_end_reason_and_failure_is_documented() {
    let page = read("docs/operations.md");
    let reasons = EndReason::ALL.map(|reason| reason.as_str());
    for name in reasons.into_iter().chain(Failure::NAMES) {
        assert!(page.contains(&format!("| `{name}` |")), "docs/operations.md has no row for {name}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("ARCHITECTURE.md")];
    pages.extend(backends().map(|page| root().join(page)));
    pages.push(root().join("examples/clients/browser/README.md"));
    for folder in ["docs", "docs/decisions"] {
        let Ok(entries) = std::fs::read_dir(root().join(folder)) else { continue };
        pages.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    }
    let mut checked = 0;
    for page in pages {
        let Ok(text) = std::fs::read_to_string(&page) else { continue };
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).expect("page");
                let anchors: Vec<String> = text.lines().filter(|line| line.starts_with('#')).map(slug).collect();
                assert!(anchors.iter().any(|known| known == anchor), "{}: no heading for {link}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} links found");
}

#[test]
fn the_documented_nginx_configuration_is_the_one_that_is_run() {
    let directives = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().map(|line| line.trim_start_matches([' ', '#']));
        let lines = lines.filter_map(|line| line.split_once(';').map(|(directive, _)| directive));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let page = read("docs/behind-nginx.md");
    let documented: String = page.split("```nginx\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let documented = directives(&documented);
    assert!(documented.len() > 20, "{documented:?}");
    let shipped = directives(&read("nginx/front-tls.conf"));
    // The address is the reader's own.
    let missing: Vec<_> = documented.difference(&shipped).filter(|line| *line != "server 127.0.0.1:8080").collect();
    assert!(missing.is_empty(), "not in nginx/front-tls.conf: {missing:?}");
}

/// The anchor that a heading gets: lower case, punctuation dropped, spaces as dashes.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}
