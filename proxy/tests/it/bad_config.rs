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

/// X.509 v1, which rcgen cannot make: `openssl x509 -req -days 36500` of OpenSSL 3.0, without extensions.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBJTCBywIULHtCa22A8THWBwqoeEpOgS41xrQwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNTIwMzExM1oYDzIxMjYxMTAxMjAzMTEz
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATDdHFJ/DfqJcVySmrrEEbxN1H+0B/zhCeEVLEZbaJtWxvSO0p6aahZnVOLjc2r
p4bhIqhGiaSECY8EOiH2c/x1MAoGCCqGSM49BAMCA0kAMEYCIQD/VUgnrM6f9OQR
Nn1WdsDkXM/79eWFLPdWB5UHCXCBGwIhAM56ahTdHLmybq91P8A2hfeY0K40/AMb
G71QoHHzrHv/
-----END CERTIFICATE-----
";

const VERSION_1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCW2YCBNmNUPPrC+I
8PzxfH1yl75nszHa/A4qNPviS22hRANCAATDdHFJ/DfqJcVySmrrEEbxN1H+0B/z
hCeEVLEZbaJtWxvSO0p6aahZnVOLjc2rp4bhIqhGiaSECY8EOiH2c/x1
-----END PRIVATE KEY-----
";

/// A folder with a valid certificate and its key, and files that are neither.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let [one, two] = [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
        files.write("cert.pem", &one.cert.pem());
        files.write("key.pem", &one.signing_key.serialize_pem());
        files.write("other.pem", &two.signing_key.serialize_pem());
        files.write("empty.pem", "nothing here");
        files.write("v1.pem", VERSION_1);
        files.write("v1-key.pem", VERSION_1_KEY);
        files.write("cut.pem", &one.cert.pem().replace("-----END CERTIFICATE-----", ""));
        files.write(
            "damaged.pem",
            &one.cert.pem().replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA"),
        );
        files.write("cut-key.pem", &one.signing_key.serialize_pem().replace("-----END PRIVATE KEY-----", ""));
        files.write(
            "encrypted.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A configuration with a TLS listener; the paths are on lines 4 and 5.
    fn config_with(&self, cert: &str, key: &str) -> String {
        let listen = format!("listen:\n  - address: 127.0.0.1:0\n    tls:\n      cert: {cert}\n      key: {key}\n");
        self.write("tls.yaml", &format!("{listen}upstreams: {{app: {{servers: ['127.0.0.1:1']}}}}\n"))
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_its_key() {
    let files = Files::new();
    let folder = files.path("");
    let cases = [
        ("missing.pem", "key.pem", 4, "tls.cert", "cannot be read: No such file", "check the path"),
        ("cert.pem", "missing.pem", 5, "tls.key", "cannot be read: No such file", "check the path"),
        ("", "key.pem", 4, "tls.cert", "cannot be read: Is a directory", "check the path"),
        ("empty.pem", "key.pem", 4, "tls.cert", "holds no certificate in PEM", "BEGIN CERTIFICATE"),
        ("key.pem", "key.pem", 4, "tls.cert", "holds a private key and no certificate", "at `key`"),
        ("cut.pem", "key.pem", 4, "tls.cert", "damaged", "copy the PEM file again"),
        ("damaged.pem", "key.pem", 4, "tls.cert", "damaged", "copy the PEM file again"),
        ("v1.pem", "v1-key.pem", 4, "tls.cert", "cannot be used: UnsupportedCertVersion;", "X.509 v3"),
        ("cert.pem", "empty.pem", 5, "tls.key", "holds no private key in PEM", "BEGIN PRIVATE KEY"),
        ("cert.pem", "cert.pem", 5, "tls.key", "holds no private key in PEM", "BEGIN PRIVATE KEY"),
        ("cert.pem", "cut-key.pem", 5, "tls.key", "damaged", "copy the PEM file again"),
        ("cert.pem", "encrypted.pem", 5, "tls.key", "which is encrypted", "openssl pkey"),
        ("cert.pem", "other.pem", 5, "tls.key", "is not the key of", "belong together"),
    ];
    for (cert, key, line, named, what, remedy) in cases {
        let file = files.config_with(&format!("{folder}{cert}"), &format!("{folder}{key}"));
        for arguments in [["check-config", &file], ["--config", &file]] {
            let output = sse_proxy(&arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{cert}, {key}: {stderr}");
            assert!(
                stderr.starts_with(&format!("sse-proxy: {file}:{line}: listen[0].{named} is")),
                "{cert}, {key}: {stderr}"
            );
            assert!(stderr.contains(what) && stderr.contains(remedy), "{cert}, {key}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "one message, and no port opened: {stderr}");
        }
    }
}

#[test]
fn a_certificate_that_is_not_valid_now_causes_a_warning() {
    let files = Files::new();
    for (from, until, wanted) in
        [(2001, 2002, "it expired on 2002-01-01T"), (2900, 2901, "it is not valid before 2900-01-01T")]
    {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = files.write("dated.pem", &parameters.self_signed(&key).unwrap().pem());
        let file = files.config_with(&cert, &files.write("dated-key.pem", &key.serialize_pem()));
        let output = sse_proxy(&["check-config", &file]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stdout}");
        assert!(stdout.starts_with(&format!("{file}:4: warning: listen[0].tls.cert is")), "{stdout}");
        assert!(stdout.contains(wanted) && stdout.contains("renew it"), "{stdout}");
    }
}

/// Runs the program as a user whose permissions count: root may write everywhere.
fn sse_proxy_without_rights(folder: &Path, arguments: &[&str]) -> Output {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    if std::fs::metadata(folder).unwrap().uid() != 0 {
        return sse_proxy(arguments);
    }
    // Another user may not reach the build's folder.
    let program = folder.join("sse-proxy");
    std::fs::copy(env!("CARGO_BIN_EXE_sse-proxy"), &program).unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env_remove("SSE_PROXY_CONFIG").uid(65534).gid(65534).output().unwrap()
}

#[test]
fn an_access_log_that_cannot_be_opened_is_refused() {
    let files = Files::new();
    let folder = files.path("");
    let cases = [
        (format!("{folder}missing/access.log"), "there is no folder", "mkdir -p"),
        (format!("{folder}cert.pem/access.log"), "there is no folder", "mkdir -p"),
        (folder.clone(), "which is a folder", "name a file in it"),
    ];
    for (path, what, remedy) in &cases {
        let text = format!("upstreams: {{app: {{servers: ['127.0.0.1:1']}}}}\naccess_log: {path}\n");
        let file = files.write("log.yaml", &text);
        for arguments in [["check-config", &file], ["--config", &file]] {
            let output = sse_proxy(&arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{path}: {stderr}");
            assert!(stderr.starts_with(&format!("sse-proxy: {file}:2: access_log is `{path}`")), "{path}: {stderr}");
            assert!(stderr.contains(what) && stderr.contains(remedy), "{path}: {stderr}");
        }
    }
    let log = files.path("access.log");
    let file =
        files.write("log.yaml", &format!("upstreams: {{app: {{servers: ['127.0.0.1:1']}}}}\naccess_log: {log}\n"));
    assert_eq!(sse_proxy(&["check-config", &file]).status.code(), Some(0));
    assert!(!Path::new(&log).exists(), "check-config creates nothing");
}

#[test]
fn an_access_log_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    std::fs::create_dir(files.path("logs")).unwrap();
    let set =
        |name: &str, mode| std::fs::set_permissions(files.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    set(&files.path("logs"), 0o555);
    set(&files.write("old.log", ""), 0o444);
    let cases = [("logs/access.log", "no file can be created in"), ("old.log", "which cannot be written to")];
    for (path, what) in cases {
        let path = files.path(path);
        let text = format!("upstreams: {{app: {{servers: ['127.0.0.1:1']}}}}\naccess_log: {path}\n");
        let output = sse_proxy_without_rights(files.0.path(), &["check-config", &files.write("log.yaml", &text)]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{path}: {stderr}");
        assert!(stderr.contains(":2: access_log is `") && stderr.contains(what), "{path}: {stderr}");
        assert!(stderr.contains("Permission denied") && stderr.contains("permissions"), "{path}: {stderr}");
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
    let path = directory.path().join("good.yaml");
    let file = path.to_str().unwrap();
    let warning = format!("{file}:2: warning: routes[0].heartbeat.interval is 45s");
    for (interval, arguments, code, warned) in [
        ("45s", ["check-config", file].as_slice(), 0, true),
        ("45s", &["check-config", "--strict", file], 1, true),
        ("15s", &["check-config", file], 0, false),
        ("15s", &["check-config", "--strict", file], 0, false),
    ] {
        let routes = format!("routes: [{{heartbeat: {{interval: {interval}}}}}]\n");
        std::fs::write(&path, format!("upstreams: {{app: {{servers: [127.0.0.1:3000]}}}}\n{routes}")).unwrap();
        let output = sse_proxy(arguments);
        let (stdout, stderr) = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).into();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stdout.contains(&warning), warned, "{arguments:?}: {stdout}");
        assert_eq!(stdout.contains(": ok"), code == 0, "{arguments:?}: {stdout}");
        assert_eq!(stderr.contains("1 warning, and --strict allows none"), code == 1, "{arguments:?}: {stderr}");
    }
}
