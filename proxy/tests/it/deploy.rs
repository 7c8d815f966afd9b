//! What is in `deploy/`: the Helm chart, the kustomizations, the alert rules.
//!
//! `scripts/check-deploy` renders and validates everything; the other tests look at what was rendered. `make test` installs the
//! programs for it (`scripts/setup-deploy`). Where they cannot be had, the tests say so and skip; not in CI.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize as _;
use serde_yaml::Value;
use sse_proxy::config::Config;

use crate::support::root;

const CHART: &str = "deploy/helm/sse-proxy";
const VALUES: [&str; 3] = ["ci/minimal-values.yaml", "ci/full-values.yaml", "ci/tls-values.yaml"];
const KUSTOMIZATIONS: [&str; 2] = ["deploy/kustomize/base", "deploy/kustomize/overlays/production"];

/// A program that `scripts/setup-deploy` installs; `None`, with a message, if it is missing.
fn installed(path: &str) -> Option<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder));
    let path = target.join("deploy").join(path);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing; scripts/setup-deploy installs it", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

/// The objects that a command prints.
fn objects(command: &mut Command) -> Vec<Value> {
    let output = command.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    read_objects(&String::from_utf8(output.stdout).unwrap())
}

fn read_objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(Value::is_mapping).collect()
}

/// The chart with a file of values and further arguments, without the pod of `helm test`.
fn chart(values: &str, arguments: &[&str]) -> Option<Vec<Value>> {
    let mut command = Command::new(installed("node/layer/helm/helm")?);
    let home = tempfile::tempdir().unwrap();
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home.path());
    }
    command.args(["template", "release", CHART, "--skip-tests", "--values"]).arg(Path::new(CHART).join(values));
    command.args(arguments);
    Some(objects(&mut command))
}

fn kustomization(folder: &str) -> Option<Vec<Value>> {
    Some(objects(Command::new(installed("node/layer/kubectl/kubectl")?).args(["kustomize", folder])))
}

/// Everything that is rendered, by the file or folder that it comes from.
fn everything() -> Option<Vec<(&'static str, Vec<Value>)>> {
    let charts = VALUES.iter().map(|values| Some((*values, chart(values, &[])?)));
    charts.chain(KUSTOMIZATIONS.iter().map(|folder| Some((*folder, kustomization(folder)?)))).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn the_only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    match of_kind(objects, kind).as_slice() {
        [object] => object,
        others => panic!("{} objects of kind {kind}", others.len()),
    }
}

fn pod(objects: &[Value]) -> &Value {
    &the_only(objects, "Deployment")["spec"]["template"]
}

/// The configuration in the ConfigMap that the pods mount.
fn config(objects: &[Value]) -> Config {
    let text = the_only(objects, "ConfigMap")["data"]["sse-proxy.yaml"].as_str().expect("a configuration");
    Config::parse(Path::new("sse-proxy.yaml"), text).unwrap_or_else(|error| panic!("{error}"))
}

/// Everything that `scripts/check-deploy` checks: schemas, refused values, configurations, alert rules.
#[test]
fn what_is_in_deploy_passes_its_checks() {
    let programs = ["node/layer/helm/helm", "node/layer/kubectl/kubectl", "python/venv/bin/kubernetes-validate"];
    if programs.iter().any(|program| installed(program).is_none()) {
        return;
    }
    if Command::new("promtool").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "promtool is missing; scripts/setup test installs it");
        return eprintln!("SKIPPED: promtool is missing");
    }
    let mut command = Command::new("scripts/check-deploy");
    command.current_dir(root()).env("SSE_PROXY", env!("CARGO_BIN_EXE_sse-proxy"));
    let output = command.output().unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("check-deploy: "), "{printed}\n{errors}");
}

#[test]
fn no_pod_is_killed_before_its_drain_has_ended() {
    let Some(everything) = everything() else { return };
    for (name, objects) in everything {
        let deployment = the_only(&objects, "Deployment");
        let strategy = &deployment["spec"]["strategy"];
        assert_eq!(strategy["type"], "RollingUpdate", "{name}");
        assert_eq!(strategy["rollingUpdate"]["maxUnavailable"], 0, "{name}");
        // One pod after the other: Kubernetes does not wait for the end of a drain.
        let drain: Value = the_only(&objects, "ConfigMap")["data"]["sse-proxy.yaml"]
            .as_str()
            .map(|text| serde_yaml::from_str(text).expect("YAML"))
            .expect("a configuration");
        let duration = |key: &str| -> Duration {
            let text = drain["drain"][key].as_str().unwrap_or_else(|| panic!("{name}: no drain.{key}"));
            let (number, minutes) =
                text.strip_suffix('m').map_or((text.trim_end_matches('s'), 1), |number| (number, 60));
            Duration::from_secs(number.parse::<u64>().unwrap_or_else(|_| panic!("{name}: {text}")) * minutes)
        };
        let pause = Duration::from_secs(deployment["spec"]["minReadySeconds"].as_u64().expect("seconds"));
        assert!(pause > duration("ready_delay") + duration("spread"), "{name}: two pods drain at a time");
        let spec = &pod(&objects)["spec"];
        assert!(spec["containers"][0]["lifecycle"].is_null(), "{name}: the drain itself waits for the Services");
        let drain = config(&objects).drain.timeout.get().expect("a limit");
        let grace = Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().expect("seconds"));
        // HTTP/2 connections have five seconds to close after the drain.
        let needed = drain + Duration::from_secs(5);
        assert!(grace > needed, "{name}: killed after {grace:?}, and the drain may take {needed:?}");
    }
}

#[test]
fn probes_services_and_policies_name_what_the_pods_have() {
    let Some(everything) = everything() else { return };
    for (name, objects) in everything {
        let labels = pod(&objects)["metadata"]["labels"].as_mapping().expect("labels");
        let selects = |selector: &Value| {
            let selector = selector.as_mapping().unwrap_or_else(|| panic!("{name}: no selector"));
            !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let container = &pod(&objects)["spec"]["containers"][0];
        let ports = container["ports"].as_sequence().expect("ports");
        let number = |port: &Value| {
            let found =
                ports.iter().find(|known| known["name"] == *port).unwrap_or_else(|| panic!("{name}: no port {port:?}"));
            found["containerPort"].as_u64().expect("a number")
        };
        // The listeners of the configuration, and nothing else.
        let config = config(&objects);
        let admin = config.admin.as_ref().expect("an admin listener");
        let listeners = config.listen.iter().map(|listener| &listener.address).chain([&admin.address]);
        let mut listened: Vec<u64> =
            listeners.map(|address| address.rsplit(':').next().unwrap().parse().unwrap()).collect();
        let mut declared: Vec<u64> = ports.iter().map(|port| number(&port["name"])).collect();
        listened.sort_unstable();
        declared.sort_unstable();
        assert_eq!(declared, listened, "{name}");
        for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{name}");
            assert_eq!(number(&container[probe]["httpGet"]["port"]), 9090, "{name}");
        }
        // What a load balancer may publish is never the admin port.
        let services = of_kind(&objects, "Service");
        assert_eq!(services.len(), 2, "{name}");
        for service in services {
            assert!(selects(&service["spec"]["selector"]), "{name}: {service:?}");
            let targets = service["spec"]["ports"].as_sequence().expect("ports");
            let admin: Vec<bool> = targets.iter().map(|port| number(&port["targetPort"]) == 9090).collect();
            let for_prometheus = service["metadata"]["labels"]["app.kubernetes.io/component"] == "admin";
            assert!(admin.iter().all(|admin| *admin == for_prometheus), "{name}: {service:?}");
            // Prometheus sees a pod that drains.
            assert_eq!(service["spec"]["publishNotReadyAddresses"] == true, for_prometheus, "{name}");
        }
        for monitor in of_kind(&objects, "ServiceMonitor") {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_mapping().expect("labels");
            let found = of_kind(&objects, "Service").into_iter().filter(|service| {
                wanted.iter().all(|(key, value)| service["metadata"]["labels"].get(key) == Some(value))
            });
            let ports: Vec<&Value> = found.map(|service| &service["spec"]["ports"][0]["name"]).collect();
            assert_eq!(ports, [&monitor["spec"]["endpoints"][0]["port"]], "{name}");
        }
        for budget in of_kind(&objects, "PodDisruptionBudget") {
            assert!(selects(&budget["spec"]["selector"]["matchLabels"]), "{name}");
        }
        for policy in of_kind(&objects, "NetworkPolicy") {
            assert!(selects(&policy["spec"]["podSelector"]["matchLabels"]), "{name}");
            let rules = policy["spec"]["ingress"].as_sequence().expect("rules");
            let allowed = rules.iter().flat_map(|rule| rule["ports"].as_sequence().expect("ports"));
            let mut allowed: Vec<u64> = allowed.map(|port| number(&port["port"])).collect();
            allowed.sort_unstable();
            assert_eq!(allowed, declared, "{name}");
            for rule in rules.iter().filter(|rule| rule["ports"][0]["port"] == "admin") {
                assert!(rule["from"].as_sequence().is_some_and(|from| !from.is_empty()), "{name}: admin for everybody");
            }
        }
        // Who scales does so alone, slowly downwards, by a metric that exists.
        let replicas = &the_only(&objects, "Deployment")["spec"]["replicas"];
        let scalers = of_kind(&objects, "HorizontalPodAutoscaler");
        assert_eq!(replicas.is_null(), !scalers.is_empty(), "{name}");
        for scaler in scalers {
            assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], the_only(&objects, "Deployment")["metadata"]["name"]);
            let metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"].as_str().expect("a metric");
            let documented = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
            assert!(documented.contains(&format!("| `{metric}{{")), "{name}: {metric}");
            let down = &scaler["spec"]["behavior"]["scaleDown"];
            assert!(down["stabilizationWindowSeconds"].as_u64() >= Some(900), "{name}");
            assert_eq!(down["policies"].as_sequence().map(Vec::len), Some(1), "{name}");
        }
        for route in of_kind(&objects, "HTTPRoute") {
            let backend = &route["spec"]["rules"][0]["backendRefs"][0];
            let service =
                of_kind(&objects, "Service").into_iter().find(|service| service["metadata"]["name"] == backend["name"]);
            let ports = service.expect("the Service of the route")["spec"]["ports"].as_sequence().expect("ports");
            assert!(ports.iter().any(|port| port["port"] == backend["port"]), "{name}: {backend:?}");
        }
    }
}

/// The image runs as user 65532 and writes nothing.
#[test]
fn pods_have_no_more_rights_than_the_image_needs() {
    let Some(everything) = everything() else { return };
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    for (name, objects) in everything {
        let spec = &pod(&objects)["spec"];
        let user = spec["securityContext"]["runAsUser"].as_u64().expect("a user");
        assert!(dockerfile.contains(&format!("\nUSER {user}:{user}\n")), "{name}: {user}");
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        let container = &spec["containers"][0]["securityContext"];
        assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(container["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(container["capabilities"]["drop"][0], "ALL", "{name}");
        let image = spec["containers"][0]["image"].as_str().expect("an image");
        assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{name}: {image}");
    }
}

#[test]
fn a_changed_configuration_makes_new_pods() {
    const CHANGES: [(&str, bool); 3] =
        [("config.threads=3", true), ("drain.timeoutSeconds=90", true), ("autoscaling.enabled=true", false)];
    let Some(before) = chart(VALUES[0], &[]) else { return };
    let checksum = |objects: &[Value]| pod(objects)["metadata"]["annotations"]["checksum/config"].clone();
    assert!(checksum(&before).is_string(), "no checksum");
    for (change, renewed) in CHANGES {
        let after = chart(VALUES[0], &["--set", change]).expect("helm");
        assert_eq!(checksum(&after) != checksum(&before), renewed, "{change}");
    }
    // Without new pods, their file changes all the same.
    const IN_PLACE: &str = "rollOnConfigChange=false";
    let before = chart(VALUES[0], &["--set", IN_PLACE]).expect("helm");
    let after = chart(VALUES[0], &["--set", IN_PLACE, "--set", "config.threads=3"]).expect("helm");
    assert_eq!(pod(&after), pod(&before));
    assert_ne!(the_only(&after, "ConfigMap"), the_only(&before, "ConfigMap"));
    // Kustomize puts a hash into the name.
    let names = KUSTOMIZATIONS.map(|folder| {
        let objects = kustomization(folder).expect("kubectl");
        let name = the_only(&objects, "ConfigMap")["metadata"]["name"].clone();
        assert_eq!(pod(&objects)["spec"]["volumes"][0]["configMap"]["name"], name, "{folder}");
        name
    });
    assert_ne!(names[0], names[1]);
}

/// The blocks `yaml values` of docs/kubernetes.md.
#[test]
fn the_documented_values_are_accepted() {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("```yaml values\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    let values = tempfile::NamedTempFile::new().unwrap();
    for block in blocks {
        std::fs::write(values.path(), block).unwrap();
        let file = values.path().display().to_string();
        let Some(objects) = chart(VALUES[0], &["--values", &file]) else { return };
        assert_ne!(objects, chart(VALUES[0], &[]).expect("helm"), "{block} changes nothing");
    }
}

/// The HTTPRoutes of `examples/in-front` lead to the Service of a release `web`, and are what the chart makes.
#[test]
fn the_examples_of_gateways_lead_to_what_the_chart_makes() {
    for (file, timeouts) in [("envoy-gateway.yaml", "{}"), ("nginx-gateway-fabric.yaml", "{timeouts: null}")] {
        let text = std::fs::read_to_string(root().join("examples/in-front").join(file)).unwrap();
        let example = read_objects(&text);
        let values = tempfile::NamedTempFile::new().unwrap();
        let gateway = "enabled: true, parentRefs: [{name: site}], hostnames: [example.org]";
        let httproute = format!("httpRoute: {{{gateway}, {}}}\n", timeouts.trim_matches(['{', '}']));
        std::fs::write(values.path(), httproute).unwrap();
        let file_of_values = values.path().display().to_string();
        let arguments = ["--values", &file_of_values, "--set", "fullnameOverride=web-sse-proxy"];
        let Some(made) = chart(VALUES[0], &arguments) else { return };
        assert_eq!(the_only(&example, "HTTPRoute")["spec"], the_only(&made, "HTTPRoute")["spec"], "{file}");
        let Some(named) = chart(VALUES[0], &[]) else { return };
        assert!(of_kind(&named, "Service").iter().any(|service| service["metadata"]["name"] == "release-sse-proxy"));
    }
}

/// Two ways to the same pods: what holds for one of them holds for the other.
#[test]
fn the_chart_and_the_kustomization_make_the_same_pods() {
    let (Some(chart), Some(base)) = (chart(VALUES[0], &[]), kustomization(KUSTOMIZATIONS[0])) else { return };
    let comparable = |objects: &[Value]| {
        let mut spec = pod(objects)["spec"].clone();
        // The chart has a value for the log's level. The names differ.
        spec["containers"][0].as_mapping_mut().unwrap().remove("env");
        spec["containers"][0].as_mapping_mut().unwrap().remove("imagePullPolicy");
        spec["volumes"][0]["configMap"] = Value::Null;
        spec["topologySpreadConstraints"][0]["labelSelector"] = Value::Null;
        spec
    };
    assert_eq!(comparable(&chart), comparable(&base));
    let drain = |objects: &[Value]| format!("{:?}", config(objects).drain);
    assert_eq!(drain(&chart), drain(&base));
}
