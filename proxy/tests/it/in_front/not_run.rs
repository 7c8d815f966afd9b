//! The files for programs that the tests cannot run: they are valid YAML.

use serde::Deserialize as _;
use serde_yaml::Value;

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
    assert!(read >= 5, "only {read} files found");
}
