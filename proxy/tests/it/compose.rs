//! Checks docker-compose.yml against docs/compose.md, and the commands of the documentation against the file.
//! `make compose-check`, which needs Docker, checks that it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_yaml::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The services by name, with what they take over from others (`<<`).
fn services() -> BTreeMap<String, Value> {
    let mut file: Value = serde_yaml::from_str(&read("docker-compose.yml")).unwrap();
    // What is taken over may itself take over from others, three deep.
    for _ in 0..3 {
        file.apply_merge().unwrap();
    }
    let services = file["services"].as_mapping().expect("services");
    services.iter().map(|(name, service)| (name.as_str().unwrap().to_owned(), service.clone())).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_sequence().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_service_has_the_documented_restrictions() {
    let services = services();
    assert!(services.len() > 10, "{:?}", services.keys());
    for (name, service) in services {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        // A service that writes a report may change to the owner of its folder, and nothing else.
        let leaves_a_file = service["entrypoint"][0] == "measure";
        assert_eq!(
            texts(&service["cap_add"]),
            if leaves_a_file { &["SETUID", "SETGID"][..] } else { &[] },
            "{name}: capabilities"
        );
        let user = service["user"].as_str().unwrap_or("");
        assert!(leaves_a_file || !user.starts_with("0") && !user.contains(":-0"), "{name} runs as root");
        for limit in ["cpus", "memory", "pids"] {
            assert!(!service["deploy"]["resources"]["limits"][limit].is_null(), "{name}: no limit of {limit}");
        }
        assert_eq!(service["ulimits"]["nofile"]["hard"], 65536, "{name}");
        assert_eq!(service["logging"]["options"]["max-file"], "3", "{name}");
        // A service that runs once is not restarted and has no health check.
        let runs_once = service["entrypoint"][0] == "measure";
        assert_eq!(service["restart"], if runs_once { "no" } else { "unless-stopped" }, "{name}");
        assert_eq!(service["healthcheck"]["test"].is_null(), runs_once, "{name}: the health check");
        let image = service["image"].as_str().expect("an image");
        assert!(image.rsplit_once(':').is_some_and(|(_, tag)| tag.contains('.')), "{name}: {image} is not pinned");
    }
}

#[test]
fn commands_of_the_documentation_name_what_the_file_has() {
    let services = services();
    let profiles: BTreeSet<&str> = services.values().flat_map(|service| texts(&service["profiles"])).collect();
    let mut checked = 0;
    for page in ["README.md", "docs/compose.md", "docs/quick-start.md", "docker-compose.yml", "docker/measure"] {
        let text = read(page);
        for command in text.split("docker compose ").skip(1) {
            let words: Vec<&str> = command
                .lines()
                .next()
                .unwrap_or("")
                .split([' ', ';', '`'])
                .filter(|word| !word.is_empty())
                .take_while(|word| !word.starts_with('#'))
                .collect();
            for pair in words.windows(2) {
                let known = match pair[0] {
                    "--profile" => pair[1] == "'*'" || profiles.contains(pair[1]),
                    "--scale" => pair[1].split('=').next().is_some_and(|name| services.contains_key(name)),
                    "--rm" => services.contains_key(pair[1]),
                    _ => continue,
                };
                assert!(known, "{page}: `docker compose {}`: there is no {}", words.join(" "), pair[1]);
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "only {checked} names found");
}
