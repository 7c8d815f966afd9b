//! Checks `docs/` against the code: documented names exist, existing names are documented, and examples are valid.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use sse_proxy::config::Config;
use sse_proxy::{EndReason, Failure};

use crate::support::{Backend, CHUNKED, Proxy};

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
        "docs/from-nginx.md",
        "docs/heartbeats.md",
        "docs/https-locally.md",
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
        let warnings = parse(&name, &text).warnings().into_iter().map(|problem| problem.to_string());
        // Other containers reach only the container's own address.
        let expected =
            |warning: &String| name.starts_with("docker/") && warning.starts_with("admin.address is `0.0.0.0:");
        let warnings: Vec<String> = warnings.filter(|warning| !expected(warning)).collect();
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

/// The keys that belong below `path`, with how a value holds them: the answer to a key that cannot be there. `None` below a
/// key whose value has none.
fn keys_below(path: &[String]) -> Option<(&'static str, Vec<String>)> {
    const NO_KEY: &str = "no_such_key";
    let unknown = serde_json::json!({ NO_KEY: 1 });
    let shapes = [
        ("", unknown.clone()),
        ("[]", serde_json::json!([unknown])),
        (".NAME", serde_json::json!({ "NAME": unknown })),
    ];
    shapes.into_iter().find_map(|(shape, value)| {
        let nested = path.iter().rev().fold(value, |value, part| {
            let (key, holder) = part.split_at(part.find(['[', '.']).unwrap_or(part.len()));
            match holder {
                "[]" => serde_json::json!({ key: [value] }),
                ".NAME" => serde_json::json!({ key: { "NAME": value } }),
                _ => serde_json::json!({ key: value }),
            }
        });
        let error = Config::parse(Path::new("probe"), &nested.to_string()).expect_err("an unknown key").to_string();
        let (_, expected) = error.split_once(&format!("{NO_KEY} is not a known key; "))?;
        let (_, expected) = expected.split_once("known keys here: ")?;
        Some((shape, expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
    })
}

/// Every key of the configuration as the page writes it: `routes[].match.path_prefix`.
fn keys_of_the_program() -> BTreeSet<String> {
    fn walk(path: &mut Vec<String>, keys: &mut BTreeSet<String>) {
        let Some((shape, below)) = keys_below(path) else {
            keys.insert(path.join("."));
            return;
        };
        if let Some(last) = path.last_mut() {
            last.push_str(shape);
        }
        for key in below {
            path.push(key);
            walk(path, keys);
            path.pop();
        }
        if let Some(last) = path.last_mut() {
            last.truncate(last.len() - shape.len());
        }
    }
    let mut keys = BTreeSet::new();
    walk(&mut Vec::new(), &mut keys);
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
    let keys = keys_of_the_program();
    assert!(keys.contains("routes[].match.path_prefix"), "the refusals were not understood: {keys:?}");
    assert_eq!(documented, keys);
}

/// Each row of `docs/from-nginx.md` names keys that are there, or says why there is none; and the directives that people look for
/// have a row.
#[test]
fn every_key_that_an_nginx_directive_becomes_exists() {
    let page = read("docs/from-nginx.md");
    let keys = keys_of_the_program();
    let (mut named, mut directives) = (0, String::new());
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        directives += cells[0];
        let [_, names, remark] = cells[..] else {
            assert_eq!(cells.len(), 2, "{row}");
            continue;
        };
        assert!(!names.is_empty() || !remark.trim_end_matches('|').trim().is_empty(), "neither key nor reason: {row}");
        let mut parent = "";
        for name in names.split('`').skip(1).step_by(2) {
            // `.value` goes on where the name before it ends.
            let key = if name.starts_with('.') { format!("{parent}{name}") } else { name.to_owned() };
            assert!(keys.contains(&key), "`{key}` is not a key: {row}");
            parent =
                if name.starts_with('.') { parent } else { name.rsplit_once('.').map_or(name, |(parent, _)| parent) };
            named += 1;
        }
    }
    assert!(named > 40, "only {named} keys found");
    for directive in [
        "location",
        "proxy_pass",
        "proxy_set_header",
        "proxy_hide_header",
        "add_header",
        "proxy_read_timeout",
        "proxy_buffering",
        "proxy_next_upstream",
        "upstream",
        "keepalive",
        "set_real_ip_from",
        "ssl_certificate",
        "http2",
        "client_max_body_size",
        "server_name",
        "rewrite",
        "send_timeout",
        "limit_except",
        "access_log",
        "worker_connections",
        "limit_conn",
        "limit_req",
        "proxy_protocol",
        "least_conn",
    ] {
        assert!(directives.contains(directive), "no row for {directive}");
    }
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let backend = Backend::answering(vec![CHUNKED.into(), b"9\r\ndata: a\n\n\r\n0\r\n\r\n".to_vec()]);
    let proxy = Proxy::start(backend.address, "");
    // Most of them show once they have counted something: a stream from its beginning to its end, and a refusal.
    proxy.stream("/events").read_to_end().unwrap();
    proxy.log_line();
    let mut refused = proxy.connect();
    refused.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(refused.read_head().status, 400);
    let (_, rendered) = proxy.admin_page("/metrics");
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
    let reasons = EndReason::ALL.iter().map(|reason| reason.as_str());
    for name in reasons.chain(Failure::NAMES.iter().copied()) {
        assert!(page.contains(&format!("| `{name}` |")), "docs/operations.md has no row for {name}");
    }
}

#[test]
fn links_between_pages_are_valid() {
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

/// The commands of docs/https-locally.md: the certificate, the configuration, and curl over HTTP/2.
#[test]
fn the_certificate_for_ones_own_machine_works() {
    let page = read("docs/https-locally.md");
    let directory = tempfile::tempdir().unwrap();
    let command = page.split("$ openssl ").nth(1).and_then(|rest| rest.split("```").next()).expect("the command");
    let shell = |command: String| {
        let output = Command::new("sh").arg("-c").arg(command).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    shell(format!("openssl {command}"));
    let file = |name: &str| directory.path().join(name).display().to_string();
    let backend = Backend::answering(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()]);
    let tls = format!("{{cert: '{}', key: '{}'}}", file("localhost.pem"), file("localhost-key.pem"));
    let upstreams = format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address);
    let proxy = Proxy::start_listening(&format!("{{address: 127.0.0.1:0, tls: {tls}}}"), &upstreams);
    let port = proxy.address.port();
    let curl = format!("curl -sS --cacert localhost.pem -w ' %{{http_version}}' https://localhost:{port}/");
    assert_eq!(shell(curl), "ok 2");
    let loadgen = page.lines().find(|line| line.starts_with("$ sse-loadgen run")).expect("the load");
    assert!(loadgen.contains("--cacert localhost.pem"), "{loadgen}");
}

/// The anchor that a heading gets: lower case, punctuation dropped, spaces as dashes.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}
