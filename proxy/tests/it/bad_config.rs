//! Invalid configurations: one message with file, line, key and remedy, exit 64, and no port opened.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

fn sse_proxy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sse-proxy")).args(arguments).env_remove("SSE_PROXY_CONFIG").output().unwrap()
}

/// Each file begins with the line its error is on and what the message has to contain: `# 3: text | more text`.
#[test]
fn each_invalid_configuration_is_reported_with_line_and_remedy() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs");
    let mut cases = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let file = path.to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let (line, wanted) = text.lines().next().unwrap().trim_start_matches("# ").split_once(": ").unwrap();
        for arguments in [["check-config", file].as_slice(), &["--config", file]] {
            let output = sse_proxy(arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{file}: {stderr}");
            assert!(stderr.contains(&format!("{file}:{line}:")), "line {line} of {file}: {stderr}");
            for part in wanted.split(" | ") {
                assert!(stderr.contains(part), "{part:?} for {file}: {stderr}");
            }
            assert_eq!(stderr.lines().count(), 1, "one message: {stderr}");
        }
        cases += 1;
    }
    assert!(cases >= 15, "only {cases} cases were found in {}", directory.display());
}

#[test]
fn a_missing_file_is_named() {
    let output = sse_proxy(&["--config", "/nonexistent/sse-proxy.yaml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent/sse-proxy.yaml: cannot be read"));
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = write("cert.pem", &one.cert.pem());
    let cases = [
        ("/nonexistent/key.pem".to_owned(), "/nonexistent/key.pem"),
        (write("empty.pem", "nothing here"), "no private key"),
        (write("other.pem", &two.signing_key.serialize_pem()), "belong together"),
    ];
    for (key, wanted) in cases {
        let listen = format!("listen: [{{address: '127.0.0.1:0', tls: {{cert: '{cert}', key: '{key}'}}}}]\n");
        let file = write("bad.yaml", &format!("{listen}upstreams: {{app: {{servers: ['127.0.0.1:1']}}}}\n"));
        for arguments in [["check-config", &file], ["--config", &file]] {
            let output = sse_proxy(&arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{stderr}");
            assert!(stderr.contains(wanted), "{wanted}: {stderr}");
        }
    }
}

#[test]
fn no_port_is_opened_for_a_bad_configuration() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    std::fs::write(&file, format!("listen: [{{address: '{free}'}}]\nupstreams: {{}}\n")).unwrap();
    assert_eq!(sse_proxy(&["--config", file.to_str().unwrap()]).status.code(), Some(64));
    assert!(TcpStream::connect(free).is_err());
}

#[test]
fn a_port_in_use_is_reported_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = sse_proxy(&["--upstream", "127.0.0.1:1", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&address) && stderr.contains("another process uses it"), "{stderr}");
}

#[test]
fn the_command_line_is_checked() {
    for arguments in [&[][..], &["--nope"], &["--upstream", "nowhere"], &["--config", "a", "--upstream", "b:1"]] {
        assert_eq!(sse_proxy(arguments).status.code(), Some(64), "{arguments:?}");
    }
    let stderr = |arguments: &[&str]| {
        let output = sse_proxy(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let bare = stderr(&[]);
    assert!(bare.contains("--config") && bare.contains("--upstream"), "{bare}");
    for option in ["--listen", "--admin"] {
        let message = stderr(&["--upstream", "127.0.0.1:1", option, "8080"]);
        assert!(message.contains(option) && message.contains("host:port"), "{message}");
    }
    let help = sse_proxy(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("sse-proxy --upstream 127.0.0.1:3000"));
}

#[test]
fn a_valid_configuration_is_reported_with_its_warnings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("good.yaml");
    std::fs::write(&file, "upstreams: {app: {servers: [127.0.0.1:3000]}}\nroutes: [{heartbeat: {interval: 45s}}]\n")
        .unwrap();
    let output = sse_proxy(&["check-config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("warning: route /: heartbeat.interval is 45s") && stdout.contains(": ok"), "{stdout}");
}
