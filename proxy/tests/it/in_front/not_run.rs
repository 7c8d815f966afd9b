//! The files for programs that the tests cannot run: they are valid YAML, and the configuration for sse-proxy in them
//! is valid.

use serde::Deserialize as _;
use serde_yaml::Value;
use sse_proxy::config::Config;

use super::root;

fn documents(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("examples/in-front").join(name)).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
}

#[test]
fn every_yaml_file_for_the_front_can_be_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(root().join("examples/in-front")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            assert!(documents(&name).iter().all(Value::is_mapping), "{name}");
            read += 1;
        }
    }
    assert!(read >= 4, "only {read} files found");
}

#[test]
fn the_configuration_within_the_kubernetes_file_is_accepted() {
    let documents = documents("ingress-nginx.yaml");
    let text = documents.iter().find_map(|document| document["data"]["sse-proxy.yaml"].as_str()).unwrap();
    let config = Config::parse(std::path::Path::new("ingress-nginx.yaml"), text).unwrap();
    // Prometheus and the probes reach only the pod's own address.
    let warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    let [admin] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(admin.starts_with("admin.address is `0.0.0.0:9090`"), "{admin}");
    // What the probes and the Service ask for.
    let ports: Vec<i64> = documents
        .iter()
        .filter_map(|document| document["spec"]["template"]["spec"]["containers"][0]["ports"].as_sequence())
        .flatten()
        .filter_map(|port| port["containerPort"].as_i64())
        .collect();
    assert_eq!(ports, [8080, 9090]);
    assert!(config.listen[0].address.ends_with(":8080"));
    assert!(config.admin.is_some_and(|admin| admin.address.ends_with(":9090")));
}
